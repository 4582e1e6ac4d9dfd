"""RecBole's models, without what fails or loses state with current libraries."""

from __future__ import annotations

from logging import LoggerAdapter, getLogger

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from recbole.model import general_recommender as general
from recbole.model import sequential_recommender as sequential

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.data.prefix_windows import TARGETS, count_targets
from recbole_lite.model.layers.softmax_loss import cross_entropy
from recbole_lite.utils.errors import ConfigError

_EPSILON = 1e-7  # RecBole's, added to every degree: padding has none
_LENGTH_GROUPS = 4  # of a training batch: each is padded to its own longest history


def adjacency(interactions: sp.coo_matrix) -> sp.csr_matrix:
    """Adjacency of the bipartite graph of users and items.

    RecBole fills a ``dok_matrix`` by its method ``_update``, which SciPy removed in 1.13.

    Parameters
    ----------
    interactions : scipy.sparse matrix
        ``[n_users, n_items]``; a pair that occurs several times is one edge.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``[n_users + n_items, n_users + n_items]``, symmetric, ones at the edges.
    """
    edges = sp.csr_matrix(interactions, dtype=np.float32)
    edges.sum_duplicates()
    edges.data[:] = 1
    return sp.bmat([[None, edges], [edges.T, None]], format="csr")


def _degrees(graph: sp.csr_matrix) -> np.ndarray:
    return np.asarray(graph.sum(axis=1), np.float64).ravel() + _EPSILON


def _sparse_tensor(matrix) -> torch.Tensor:
    matrix = matrix.tocoo()
    places = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    return torch.sparse_coo_tensor(places, values, matrix.shape, check_invariants=True)


class _NormalisedAdjacency:
    def get_norm_adj_mat(self):
        """``D^-1/2 A D^-1/2`` of the training interactions, a sparse tensor."""
        graph = adjacency(self.interaction_matrix)
        scale = sp.diags(_degrees(graph) ** -0.5)
        return _sparse_tensor(scale @ graph @ scale)


class LightGCN(_NormalisedAdjacency, general.LightGCN):
    """RecBole's LightGCN; only the adjacency is built differently."""


class NGCF(_NormalisedAdjacency, general.NGCF):
    """RecBole's NGCF; only the adjacency is built differently."""


class GCMC(_NormalisedAdjacency, general.GCMC):
    """RecBole's GCMC; only the adjacency is built differently."""


class SpectralCF(general.SpectralCF):
    """RecBole's SpectralCF; only the Laplacian is built differently."""

    def get_laplacian_matrix(self):
        """``I - D^-1 A`` of the training interactions, a sparse tensor."""
        graph = adjacency(self.interaction_matrix)
        walk = sp.diags(1 / _degrees(graph)) @ graph
        return _sparse_tensor(sp.identity(graph.shape[0], np.float32) - walk)


class NCL(_NormalisedAdjacency, general.NCL):
    """RecBole's NCL with scikit-learn's k-means; RecBole's needs faiss and a GPU."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        # With m_step > 1 an epoch uses the clusters of an earlier one, so checkpoints hold them.
        clusters = ["user_centroids", "user_2cluster", "item_centroids", "item_2cluster"]
        self.other_parameter_name = [*self.other_parameter_name, *clusters]
        fewest = min(self.n_users, self.n_items)
        if self.k > fewest:
            getLogger().warning(
                f"num_clusters {self.k} is more than the users or items of the data; "
                f"{fewest} clusters are used"
            )
            self.k = fewest

    def run_kmeans(self, x):
        """Cluster vectors.

        Parameters
        ----------
        x : numpy.ndarray
            ``[n, d]``.

        Returns
        -------
        tuple of torch.Tensor
            Unit centroids ``[num_clusters, d]``, and each vector's cluster ``[n]``.
        """
        from sklearn.cluster import KMeans

        # NumPy's global generator, which seed and --resume restore; iterations as in faiss.
        found = KMeans(self.k, n_init=1, max_iter=25).fit(x)
        centroids = torch.from_numpy(found.cluster_centers_).float().to(self.device)
        labels = torch.from_numpy(found.labels_).long().to(self.device)
        return F.normalize(centroids, dim=1), labels


class Random(general.Random):
    """Random scores, fixed for each user and item; RecBole's change at every evaluation."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        generator = torch.Generator().manual_seed(config["seed"])
        for name, n in (("user_keys", self.n_users), ("item_keys", self.n_items)):
            self.register_buffer(name, torch.randint(2**62, (n,), generator=generator))

    def _scores(self, users, items):
        """Mix the bits of both keys (the finaliser of SplitMix64) to a number in [0, 1)."""
        bits = self.user_keys[users] ^ self.item_keys[items]
        for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
            bits = (bits ^ (bits >> shift)) * factor
        return (bits ^ (bits >> 31)).double() / 2.0**63

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        return self._scores(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B * n_items]``."""
        items = torch.arange(self.n_items, device=self.user_keys.device)
        return self._scores(interaction[self.USER_ID][:, None], items).view(-1)


class _SeededScores:
    """Scores from noise that follows ``seed``: a reloaded model has the figures of its test."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.noise_seed = config["seed"]

    def predict(self, interaction):
        """RecBole's, with the noise fixed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.noise_seed)
            return super().predict(interaction)

    def full_sort_predict(self, interaction):
        """RecBole's, with the noise fixed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.noise_seed)
            return super().full_sort_predict(interaction)


class ADMMSLIM(_SeededScores, general.ADMMSLIM):
    """RecBole's ADMMSLIM, which breaks ties by noise."""


class DiffRec(_SeededScores, general.DiffRec):
    """RecBole's DiffRec; checkpoints hold the losses that importance sampling draws by."""

    other_parameter_name = ("Lt_history", "Lt_count")


class LDiffRec(_SeededScores, general.LDiffRec):
    """RecBole's LDiffRec; checkpoints hold the losses that importance sampling draws by."""

    other_parameter_name = ("Lt_history", "Lt_count")


class LINE(general.LINE):
    """RecBole's LINE; checkpoints hold the shuffled users that negatives are drawn from."""

    def other_parameter(self):
        """State beside the weights; the tensor shares the memory of the array."""
        return {"random_list": torch.from_numpy(self.random_list)}


class _AllPositions:
    """A model of RecBole's that ``train_strategy: prefix`` trains on all positions of a window.

    RecBole trains causal models on the last position of every prefix, which costs as many passes as
    there are positions. The losses are the same, but for padding's, which is no class here.
    """

    loss_terms = staticmethod(count_targets)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        if self.loss_type == "CE":  # others ignore it, with a warning (smooth_labels)
            self.label_smoothing = config["label_smoothing"]
        self.length_groups = _LENGTH_GROUPS if config["cut_padding"] else 1
        if config["train_strategy"] == "prefix" and self.loss_type != "CE":
            raise ConfigError(
                f"train_strategy: prefix trains {config['model']} with loss_type: CE, found "
                f"{self.loss_type!r}"
            )

    def gather_indexes(self, output, gather_index):
        """Outputs ``[B, L, d]`` at one position of each row, ``[B, d]``; all for no index."""
        return super().gather_indexes(output, gather_index) if gather_index.numel() else output

    def all_outputs(self, item_seq):
        """Outputs ``[B, L, d]`` after each item of histories ``[B, L]``."""
        return self.forward(item_seq, item_seq.new_empty(0))

    def calculate_loss(self, interaction):
        """RecBole's; with prefixes the mean cross entropy of the targets over all items."""
        if TARGETS not in interaction:
            return super().calculate_loss(interaction)
        lengths, targets = (to_host(interaction[f]) for f in (self.ITEM_SEQ_LEN, TARGETS))
        outputs, targets = self._outputs_at_targets(interaction[self.ITEM_SEQ], lengths, targets)
        weight = self.item_embedding.weight[1 : self.n_real_items]
        return cross_entropy(outputs, weight, targets - 1, smoothing=self.label_smoothing)

    @property
    def n_real_items(self) -> int:
        """Number of items, padding included."""
        return self.n_items

    def _outputs_at_targets(self, item_seq, lengths, targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs ``[N, d]`` and targets ``[N]``; rows are read with those of similar length.

        Parameters
        ----------
        item_seq : torch.Tensor
            Inputs ``[B, L]``, on the model's device.
        lengths, targets : torch.Tensor
            ``[B]`` and ``[B, L]`` (0: none), on the CPU.
        """
        outputs, found = [], []
        for rows in lengths.argsort(descending=True, stable=True).chunk(self.length_groups):
            width = int(lengths[rows[0]])
            wanted = targets[rows, :width].flatten()
            places = wanted.nonzero().squeeze(1)
            read = item_seq[tensor_to_device(rows, item_seq.device), :width]
            hidden = self.all_outputs(read).flatten(0, 1)
            outputs.append(hidden[tensor_to_device(places, item_seq.device)])
            found.append(wanted[places])
        return torch.cat(outputs), tensor_to_device(torch.cat(found), item_seq.device)


class SASRec(_AllPositions, sequential.SASRec):
    """RecBole's SASRec; ``train_strategy: prefix`` trains all positions, as its authors do."""


class GRU4Rec(_AllPositions, sequential.GRU4Rec):
    """RecBole's GRU4Rec; ``train_strategy: prefix`` trains all positions."""


class FDSA(_AllPositions, sequential.FDSA):
    """RecBole's FDSA; ``train_strategy: prefix`` trains all positions."""


class S3Rec(_AllPositions, sequential.S3Rec):
    """RecBole's S3Rec; ``train_strategy: prefix`` finetunes all positions, as its authors do.

    Pretraining then reads each window once, not each of its prefixes.
    """

    def all_outputs(self, item_seq):
        """Outputs ``[B, L, d]`` after each item of histories ``[B, L]``."""
        return self.forward(item_seq, bidirectional=False)

    def calculate_loss(self, interaction):
        """RecBole's of the stage; in finetuning with prefixes that of all targets."""
        if self.train_stage == "pretrain":
            return sequential.S3Rec.calculate_loss(self, interaction)
        return super().calculate_loss(interaction)

    @property
    def n_real_items(self) -> int:
        """Number of items, padding included; the last row of the table is the mask's."""
        return self.n_items - 1


class BERT4Rec(_AllPositions, sequential.BERT4Rec):
    """RecBole's BERT4Rec, which scores the masked positions alone; results are the same.

    RecBole scores ``mask_ratio * MAX_ITEM_LIST_LENGTH`` positions of each history, most of which
    count nothing where histories are short, and places the mask of a tested history row by row.

    RecBole masks the history of each target and never the target itself, so that nobody's last
    item is learned. ``train_strategy: prefix`` masks whole windows, as its authors do (arXiv
    1904.06690, section 3.5). A tested history then keeps its oldest item, unless it is full;
    RecBole's loses it always. Positions count from the last item, so that the mask of a tested
    history has the same position whatever its length.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.masks_windows = config["train_strategy"] == "prefix"

    def all_outputs(self, item_seq):
        """Outputs ``[B, L, d]`` at each position of ``[B, L]``."""
        return self.forward(item_seq)

    def forward(self, item_seq):
        """RecBole's outputs ``[B, L, d]``; for whole windows with positions from the last item."""
        if not self.masks_windows:
            return super().forward(item_seq)
        last = (item_seq > 0).sum(1, keepdim=True) - 1
        positions = (last - torch.arange(item_seq.shape[1], device=item_seq.device)).clamp(min=0)
        vectors = self.item_embedding(item_seq) + self.position_embedding(positions)
        mask = self.get_attention_mask(item_seq, bidirectional=True)
        outputs = self.trm_encoder(self.dropout(self.LayerNorm(vectors)), mask)[-1]
        return self.output_ln(self.output_gelu(self.output_ffn(outputs)))

    def _fit(self, *tables: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Cut tables ``[B, L + 1]`` to the model's positions: full rows lose their first column."""
        if tables[0].shape[1] <= self.max_seq_length:
            return [*tables, lengths]
        full = lengths > self.max_seq_length
        cut = [
            torch.where(full[:, None], table.roll(-1, 1), table)[:, : self.max_seq_length]
            for table in tables
        ]
        return [*cut, lengths.clamp(max=self.max_seq_length)]

    def outputs_at_mask(self, item_seq, item_seq_len):
        """Outputs ``[B, d]`` at a mask behind the last item of histories ``[B, L]``."""
        extended = F.pad(item_seq, (0, 1))
        rows = torch.arange(len(extended), device=extended.device)
        extended[rows, item_seq_len] = self.mask_token
        if self.masks_windows:
            masked, lengths = self._fit(extended, lengths=item_seq_len + 1)
        else:
            masked, lengths = extended[:, 1:], item_seq_len
        return self.gather_indexes(self.forward(masked), lengths - 1)

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        users = self.outputs_at_mask(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = interaction[self.ITEM_ID]
        return (users * self.item_embedding(items)).sum(1) + self.output_bias[items]

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B, n_items]``."""
        users = self.outputs_at_mask(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return users @ self.item_embedding.weight[: self.n_items].T + self.output_bias

    def calculate_loss(self, interaction):
        """Mean cross entropy of the masked items, but those at the first position (RecBole's)."""
        if TARGETS in interaction:
            return self._masked_window_loss(interaction)
        if self.loss_type != "CE":
            return sequential.BERT4Rec.calculate_loss(self, interaction)
        places, items = (to_host(interaction[f]) for f in (self.MASK_INDEX, self.POS_ITEMS))
        rows, columns = (places > 0).nonzero(as_tuple=True)
        found = rows, places[rows, columns], items[rows, columns]
        outputs = self.forward(interaction[self.MASK_ITEM_SEQ])
        rows, places, items = (tensor_to_device(values, outputs.device) for values in found)
        scores = outputs[rows, places] @ self.item_embedding.weight[: self.n_items].T
        return F.cross_entropy(
            scores + self.output_bias, items, label_smoothing=self.label_smoothing
        )

    def _masked_window_loss(self, interaction) -> torch.Tensor:
        """Sum of the masked targets' cross entropy over all items, by their expected number.

        The actual number would give batches of few masks too much weight.
        """
        fields = self.ITEM_SEQ, self.ITEM_SEQ_LEN, TARGETS
        items, lengths, targets = (to_host(interaction[field]) for field in fields)
        windows, rows = F.pad(items, (0, 1)), torch.arange(len(items))
        windows[rows, lengths] = targets[rows, lengths - 1]
        asked = F.pad(targets, (1, 0))
        windows, asked, lengths = self._fit(windows, asked, lengths=lengths + 1)
        masked = (asked > 0) & (torch.rand(asked.shape) < self.mask_ratio)
        inputs = tensor_to_device(
            windows.masked_fill(masked, self.mask_token), interaction[self.ITEM_SEQ].device
        )
        outputs, found = self._outputs_at_targets(inputs, lengths, asked * masked)
        real = slice(1, self.n_items)
        weight = torch.cat([self.item_embedding.weight[real], self.output_bias[real, None]], 1)
        loss = cross_entropy(
            F.pad(outputs, (0, 1), value=1.0), weight, found - 1, smoothing=self.label_smoothing
        )
        return loss * (len(found) / (self.mask_ratio * count_targets(interaction)))


class KSR(sequential.KSR):
    """RecBole's KSR; its relation vectors are float64, which its layers refuse."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.relation_Matrix = self.relation_Matrix.float()


class RaCT(general.RaCT):
    """RecBole's RaCT; the log message about its pre-trained weights cannot be formatted."""

    @property
    def logger(self):
        """Logger that joins the arguments of ``info`` instead of formatting with them."""
        return _JoiningLogger(getLogger())

    @logger.setter
    def logger(self, value):
        pass


class _JoiningLogger(LoggerAdapter):
    def info(self, msg, *args, **kwargs):
        super().info(" ".join(map(str, (msg, *args))), **kwargs)
