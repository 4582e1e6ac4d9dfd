"""POD: prompt distillation for efficient LLM-based recommendation (Li et al., CIKM 2023)."""

from __future__ import annotations

from recbole_lite.model.p5 import P5


class POD(P5):
    """P5 with the prompt's words distilled into vectors (``prompt_length``, Section 3.2).

    In training a prompt has the vectors and one of ``prompt_templates``, the bare
    ``user_12 item_34 ...`` among them; what the words say goes into the vectors. Evaluation takes
    the first template: the bare one.
    """
