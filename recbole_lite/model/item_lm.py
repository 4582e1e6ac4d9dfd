"""ItemLM: a small language model whose tokens are items (after arXiv 2506.15833)."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from recbole_lite.model.abstract_recommender import NextItemModel
from recbole_lite.model.layers.dropout import Dropout
from recbole_lite.model.layers.half_table import ItemEmbedding
from recbole_lite.model.layers.item_tower import ItemTower
from recbole_lite.model.layers.llm_architecture import change_architecture
from recbole_lite.model.layers.pca import principal_axes
from recbole_lite.model.layers.rec_llm import EmbeddingEncoder
from recbole_lite.model.layers.row_packing import RowPacking
from recbole_lite.model.layers.sharded_embedding import (
    ShardedEmbedding,
    divides_items,
    initial_rows,
)
from recbole_lite.model.layers.user_pooling import UserPooling
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.text.llm_loading import random_encoder
from recbole_lite.utils.errors import ConfigError, one_line
from recbole_lite.utils.process_group import broadcast
from recbole_lite.utils.suggestions import suggest

# Names that architectures have for the width of the feed-forward layers.
INNER_SIZES = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim")


class ItemLM(NextItemModel):
    """Item ids -> causal language model -> one score per item.

    The model of arXiv 2506.15833, "the architecture of large language models with fewer layers
    and smaller dimensions, one discrete token per item", as far as its abstract tells. Windows,
    loss, head and trainer are LiteLLM4Rec's, so that the two differ in what an item is.

    ================  =====================================================================
    ``item_init``     vector of item i
    ================  =====================================================================
    ``random``        row i of a trained table that begins as normal noise
    ``text``          row i of a trained table that begins as the Item LLM's vector, turned
                      to the model's size by its principal axes and scaled like the noise
    ``text_plus_id``  row i of a trained table, plus a linear map of the Item LLM's vector; the
                      row of an item that is never a target of the training stays 0
    ================  =====================================================================

    Parameters
    ----------
    config : LiteConfig
        Keys: ``properties/model/ItemLM.yaml``.
    dataset : LiteSequentialDataset
        Gives the number of items and, unless ``item_init`` is random, their text.

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the Item LLM or the items' text cannot be had.
    """

    shards_items = True  # shard_items

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        name = config["lm_architecture"]
        encoder = random_encoder(_architecture(config, self.max_seq_length))
        self.lm = EmbeddingEncoder(encoder, True, label=f"lm_architecture {name!r}")
        d = self.lm.input_size
        if d != self.lm.hidden_size:
            raise ConfigError(
                f"lm_architecture {name!r} reads vectors of {d} numbers and gives "
                f"{self.lm.hidden_size}; set its size of embeddings in lm_config to hidden_size"
            )
        if divides_items(config):
            self.items = ShardedEmbedding(config, self.n_items, d)
        else:
            sparse = bool(config["sparse_item_updates"])
            noise = initial_rows(config, (self.n_items, d), slice(0, self.n_items))
            self.items = ItemEmbedding(self.n_items, d, sparse=sparse, _weight=noise)
        self.item_dtype = self.items.weight.dtype
        if self.item_dtype != torch.float32:
            self.items.weight.grad_dtype = torch.float32
        self.item_tower = None
        how = config["item_init"]
        if how == "text":
            texts = load_item_vectors(config, dataset)
            self.item_vectors_sha256 = texts.sha256
            known = nn.functional.normalize(texts.vectors[texts.has_text].float(), dim=-1)
            size = min(d, known.shape[1])
            axes = principal_axes(known, size, config["initializer_range"])
            has_text = texts.has_text
            if self.item_shard is not None:
                axes = broadcast(config, axes)  # other processors may turn some axes round
                rows = self.item_shard.rows
                begin = has_text[: rows.start].sum()
                has_text = has_text[rows]
                known = known[begin : begin + has_text.sum()]
            with torch.no_grad():
                self.items.weight[has_text, :size] = (known @ axes).to(self.item_dtype)
        elif how == "text_plus_id":
            self.item_tower = ItemTower(config, dataset, d, {"frozen"})
            self.item_vectors_sha256 = self.item_tower.vectors_sha256
            self._keep_at_zero(dataset)
        elif config["item_vectors"]:
            getLogger().warning(
                "item_vectors is not read with item_init: random; set text or text_plus_id"
            )
        self.item_mask = nn.Dropout1d(config["item_mask_ratio"] or 0.0)
        self.item_dropout = Dropout(config["item_dropout"])
        self.pooling = UserPooling(config["user_pooling"])
        self.user_dropout = Dropout(config["user_dropout"])
        tied = config["tie_head"]
        self.head = None if tied else nn.Linear(d, self.n_items - 1, bias=False)
        self.read_loss(config)
        if self.items.sparse and (not tied or self.loss_type == "CE"):
            raise ConfigError(
                "sparse_item_updates needs a loss over a sample of the items, which reads only "
                "their rows: set loss_type: SCE or InfoNCE, and tie_head: True"
            )

    @property
    def item_shard(self) -> ShardedEmbedding | None:
        """The table, where its rows are divided among processes (``shard_items``)."""
        divided = isinstance(self.items, ShardedEmbedding) and not self.items.is_whole
        return self.items if divided else None

    @property
    def reader(self) -> EmbeddingEncoder:
        """The causal language model."""
        return self.lm

    def _keep_at_zero(self, dataset) -> None:
        """Keep the rows of items at 0 that are never a target: a loss only pushes these away."""
        untrained = torch.ones(self.n_items, 1, dtype=torch.bool)
        if hasattr(dataset, "inter_feat"):  # a model that is only to recommend has no data
            untrained[dataset.inter_feat.target_items()] = False
            with torch.no_grad():
                self.items.weight.masked_fill_(untrained, 0)
        self.register_buffer("untrained", untrained, persistent=False)

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items, ``[...]`` ids -> ``[..., d]``."""
        own = self.items(items)
        if self.item_tower is None:
            return own
        return torch.where(self.untrained[items], own.detach(), own) + self.item_tower(items)

    def item_table(self) -> torch.Tensor:
        """Vectors of all items, ``[n_items, d]``; row 0 is padding."""
        own = self.items.weight
        if self.item_tower is None:
            return own
        return torch.where(self.untrained, own.detach(), own) + self.item_tower.table()

    def encode(self, item_seq: torch.Tensor, packing: RowPacking | None = None) -> torch.Tensor:
        """Outputs of the language model, ``[B, L]`` ids -> ``[B, L, d]``."""
        vectors = self.item_dropout(self.item_mask(self.input_vectors(item_seq)))
        return self.lm(vectors, item_seq != 0, packing=packing)

    def head_weight(self) -> torch.Tensor:
        """``[n_items - 1, d]``: row i - 1 scores item i; the input table with ``tie_head``."""
        if self.item_shard is not None:
            return self.item_shard.head()
        return self.item_table()[1:] if self.head is None else self.head.weight

    def keep_items(self, dtype: torch.dtype) -> torch.Tensor:
        """See :class:`NextItemModel`; the weights are converted themselves, without a copy."""
        for module in (self.items, self.head):
            if module is not None:
                module.to(dtype)
        return super().keep_items(dtype)

    def head_rows(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of the head of some items, ``[n]`` ids -> ``[n, d]``; no others are computed."""
        return self.item_vectors(items) if self.head is None else self.head.weight[items - 1]


def _architecture(config, max_length: int) -> PretrainedConfig:
    """Hugging Face's configuration of ``lm_architecture`` in the size that the keys give."""
    name, size, heads = config["lm_architecture"], config["hidden_size"], config["n_heads"]
    if size % heads:
        raise ConfigError(f"hidden_size {size} is not a multiple of n_heads {heads}")
    try:
        default = AutoConfig.for_model(name)
    except ValueError:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        hint = suggest(str(name), list(CONFIG_MAPPING))
        raise ConfigError(
            f"lm_architecture: transformers has no model type {name!r}{hint}; "
            "gpt2, llama, qwen3 and t5 are tested"
        ) from None
    sizes = {
        "hidden_size": size,
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": size // heads,
        "d_kv": size // heads,
        "max_position_embeddings": max_length,
        **dict.fromkeys(("embedding_size", "word_embed_proj_dim"), size),  # ALBERT, ELECTRA; OPT
        "vocab_size": 1,  # its own table is not used
        **dict.fromkeys(INNER_SIZES, config["inner_size"]),
    }
    if hasattr(default, "d_kv"):
        sizes.pop("head_dim")  # T5's name for it is d_kv
    # No word is ever read.
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    try:
        known = {key: value for key, value in sizes.items() if hasattr(default, key)}
        architecture = AutoConfig.for_model(name, **known, **special)
    except Exception as error:  # validators of transformers have classes of their own
        raise ConfigError(
            f"lm_architecture {name!r} does not take the sizes of ItemLM ({one_line(error)}); "
            "gpt2, llama, qwen3 and t5 are tested"
        ) from error
    if getattr(architecture, "activation_function", None) == "gelu_new":
        architecture.activation_function = "gelu_pytorch_tanh"  # the same, in one kernel
    change_architecture(architecture, config["lm_config"], config["lm_dropout"], "lm_config")
    return architecture
