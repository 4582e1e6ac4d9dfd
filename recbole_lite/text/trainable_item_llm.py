"""The Item LLM inside the training graph (paper Algorithm 1, lines 5-8)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.text.attention import use_explicit_mask
from recbole_lite.text.item_llm_settings import TextSettings
from recbole_lite.text.item_vectors import read_texts
from recbole_lite.text.llm_files import resolve_llm
from recbole_lite.text.lora import add_lora, set_trainable
from recbole_lite.text.text_encoder import TextEncoder, pad_tokens, pooled_states
from recbole_lite.utils.errors import ConfigError

_ITEM_TOKEN_STD = 0.02  # as of the embeddings of an untrained language model


class TrainableItemLLM(nn.Module):
    """Item LLM whose weights are trained: item ids in, vectors ``h_i`` out (eqs. 1-3).

    Each training step encodes the distinct items of its batch. Up to ``item_llm_batch_size`` items
    are one forward pass; more are split into chunks of that size with activation checkpointing, so
    that memory does not grow with the batch. (Each chunk draws its own dropout: with dropout, the
    chunk size changes a training run like another seed.)

    Parameters
    ----------
    config : LiteConfig
        The keys of `recbole_lite.text.item_vectors.load_item_vectors`. Trained weights are float32
        whatever ``item_llm_dtype`` says, because an optimiser's updates are lost in 16-bit weights.
        ``item_embedding_cache_dir`` is not used.
    dataset : LiteSequentialDataset
        Has the texts, which are tokenized once, here.

    Attributes
    ----------
    encoder : PreTrainedModel
        The model, with the dropout of its own configuration.
    head : TextHead
        Pooling and what its recipe has after it.
    item_token : Parameter [d] or None
        With ``item_llm_pooling: item_token``, the embedding of a token at the end of each text,
        whose output is the item's vector (HLLM, arXiv 2409.12740); begins as normal noise of
        standard deviation 0.02. The state_dict of this module holds the weights of these three and
        nothing else.
    folder : Path
        Of the trained weights.
    hidden_size : int
        d_item.
    n_items : int
        Padding item included.
    has_text : BoolTensor [n_items]
        False for the padding item and for items without text: their vectors are zeros.

    Raises
    ------
    ConfigError, ModelFilesError, MissingDependencyError
        With one line that names the key or the model and says what to do.
    """

    has_text: torch.Tensor

    def __init__(self, config, dataset):
        super().__init__()
        settings = TextSettings.from_config(config)
        if settings.dtype == "float16":
            raise ConfigError(
                "item_llm_dtype: float16; an Item LLM that is trained has float32 weights; give "
                "auto or float32"
            )
        texts, has_text = read_texts(settings, dataset)
        folder = resolve_llm(settings.llm, local_files_only=settings.local_files_only)
        recipe = settings.recipe(folder)
        with torch.random.fork_rng(devices=[]):  # transformers draws what it then overwrites
            source = TextEncoder(
                folder,
                recipe=recipe,
                max_length=settings.max_length,
                batch_size=settings.batch_size,
                dtype="float32",
                device="cpu",  # moves with the module
            )
        self.encoder = use_explicit_mask(_without_unused(source.model, recipe.pooling)).train()
        self.head, self.folder, self.item_token = source.head.train(), folder, None
        if settings.pooling == "item_token":
            _leave_room(source)
            size = source.model.get_input_embeddings().weight.shape[1]
            self.item_token = nn.Parameter(torch.randn(size) * _ITEM_TOKEN_STD)
        if config["item_llm_lora"] is not None:
            add_lora(self.encoder, config["item_llm_lora"], "item_llm_lora")
        self.hidden_size: int = source.head.size
        self.n_items = len(texts)
        self._chunk_size = settings.batch_size
        self._pad_id = source.pad_id
        tokens = iter(source.tokenize([text for text in texts if text]))
        nothing = torch.zeros(0, dtype=torch.long)
        # The place of the item token, whose embedding is not the vocabulary's.
        last = nothing if self.item_token is None else torch.tensor([self._pad_id])
        # n_items x [L_i], on the host, where batches are assembled.
        self._tokens = [torch.cat([next(tokens), last]) if text else nothing for text in texts]
        self._lengths = torch.tensor([len(ids) for ids in self._tokens])  # [n_items]
        self.register_buffer("has_text", has_text, persistent=False)
        # Within `encoding_once`: ids [n] of the items encoded so far, vectors [n, d].
        self._encoded: tuple[torch.Tensor, torch.Tensor] | None = None
        self._vectors: torch.Tensor | None = None  # [n_items, d], by the weights of _version
        self._version: list[tuple[int, int]] = []
        self.register_load_state_dict_post_hook(_forget)
        logging.getLogger().info(
            f"Item LLM {settings.llm}: trained; {int(has_text.sum()):,} items, "
            f"{int(self._lengths.sum()):,} tokens"
        )

    def forward(self, item_ids: torch.Tensor) -> torch.Tensor:
        """Vectors of items.

        In training mode, and wherever gradients are recorded, the items are encoded; otherwise
        they are looked up in `vectors`, whose first call encodes all items.

        Parameters
        ----------
        item_ids : LongTensor [...]
            Internal ids, 0 for padding.

        Returns
        -------
        Tensor [..., d_item], float32
            Zeros, through which no gradient flows, for padding and for items without text.
        """
        if not self.training and not torch.is_grad_enabled():
            return F.embedding(item_ids, self.vectors())
        # On the host: how many there are decides shapes.
        distinct, inverse = torch.unique(to_host(item_ids), return_inverse=True)  # [n], [...]
        vectors = self._encode(distinct) if self._encoded is None else self._encode_new(distinct)
        # [n, d] -> [..., d]
        return F.embedding(tensor_to_device(inverse, item_ids.device), vectors)

    @contextmanager
    def encoding_once(self) -> Iterator[None]:
        """Within, encode an item only where it is read first; for one training step."""
        self._encoded = torch.zeros(0, dtype=torch.long), torch.zeros(0)
        try:
            yield
        finally:
            self._encoded = None

    def _encode_new(self, items: torch.Tensor) -> torch.Tensor:
        """As `_encode`, of distinct items in ascending order."""
        ids, vectors = self._encoded
        new = items[~torch.isin(items, ids)]
        encoded = self._encode(new)
        ids = torch.cat([ids, new])
        vectors = torch.cat([vectors, encoded]) if len(vectors) else encoded
        self._encoded = ids, vectors
        ids, order = ids.sort()
        rows = order[torch.searchsorted(ids, items)]
        return vectors.index_select(0, tensor_to_device(rows, vectors.device))

    def encode_all(self) -> torch.Tensor:
        """Encode all items without dropout and gradients; the mode stays unchanged.

        Returns
        -------
        Tensor [n_items, d_item], float32
            Zeros for the padding item and for items without text.
        """
        # Outside a caller's inference mode: later gradients may need the result.
        with (
            _without_dropout(self.encoder, self.head),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            return self._encode(torch.arange(self.n_items))

    def vectors(self) -> torch.Tensor:
        """Result of `encode_all`, cached until the weights change.

        ``train()`` and loading weights drop the cache; it is computed again where a parameter has
        changed or moved. (A change through ``parameter.data`` is not noticed.) In training mode
        nothing is cached.

        Returns
        -------
        Tensor [n_items, d_item], float32
            Not to be changed in place.
        """
        if self.training:
            return self.encode_all()
        version = [(p.data_ptr(), p._version) for p in self.parameters()]
        if self._vectors is None or self._version != version:
            self._vectors, self._version = self.encode_all(), version
        return self._vectors

    def set_trainable(self, trains: bool) -> None:
        """Train the Item LLM or freeze it; with ``item_llm_lora``, its adapters for it."""
        self.requires_grad_(trains)
        set_trainable(self.encoder, trains)

    def train(self, mode: bool = True) -> TrainableItemLLM:
        """Set training or evaluation mode; training drops the cached vectors."""
        if mode:
            self._vectors = None
        return super().train(mode)

    def _encode(self, items: torch.Tensor) -> torch.Tensor:
        """Encode items: [n] ids on the CPU -> [n, d], zeros for items without tokens."""
        # By length, the longest first, so that a chunk holds texts of similar length.
        lengths, order = self._lengths[items].sort(descending=True, stable=True)
        order = order[: int((lengths > 0).sum())]
        device = self.has_text.device
        vectors = torch.zeros(len(items), self.hidden_size, device=device)
        if len(order) == 0:
            return vectors
        chunks = items[order].split(self._chunk_size)
        recompute = len(chunks) > 1 and torch.is_grad_enabled()
        encoded = torch.cat([self._encode_chunk(chunk, recompute) for chunk in chunks])
        return vectors.index_copy(0, tensor_to_device(order, device), encoded)

    def _encode_chunk(self, items: torch.Tensor, recompute: bool) -> torch.Tensor:
        """Encode items that have tokens: [B] ids on the CPU -> [B, d]."""
        padded = pad_tokens([self._tokens[item] for item in items.tolist()], self._pad_id)
        ids, mask = (tensor_to_device(part, self.has_text.device) for part in padded)
        arguments = (self.encoder, self.head, ids, mask, self.item_token)
        if recompute:
            return checkpoint(pooled_states, *arguments, use_reentrant=False)
        return pooled_states(*arguments)


def _leave_room(source: TextEncoder) -> None:
    """Keep one of the tokens of a text for the item token."""
    source.max_length -= 1
    if source.max_length <= source.tokenizer.num_special_tokens_to_add():
        raise ConfigError(
            f"item_llm_max_length: {source.max_length + 1} leaves no token for the text beside the "
            "item token; give more"
        )


def _without_unused(model: PreTrainedModel, pooling: tuple[str, ...]) -> PreTrainedModel:
    """Drop an unused pooler: it would be saved, but never trained."""
    if "pooler" not in pooling and getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _forget(module: TrainableItemLLM, _) -> None:
    """Drop the cached vectors after loading; no method, so that copies drop their own."""
    module._vectors = None


@contextmanager
def _without_dropout(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each submodule has its former mode, frozen ones theirs."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
