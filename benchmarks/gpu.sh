#!/bin/sh
# What a GPU makes of training, evaluation and serving (benchmarks/gpu.py says what is measured), in one call of
# nine minutes on one H100-class GPU. The host needs no network: MiniLM's item vectors come from a cache, which
# any CPU run with --item_llm=minilm on ml-1m writes to .cache/item_embeddings.
#
#   sh benchmarks/gpu.sh DATA_PATH T5_TOKENIZER ITEM_EMBEDDINGS OUT [options of gpu.py]
set -eu
DATA=$1 TOKENIZER=$2 VECTORS=$3 OUT=$4
shift 4
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTORCH_NVML_BASED_CUDA_CHECK=1
exec python3 "$(dirname "$0")/gpu.py" --data_path="$DATA" --tokenizer="$TOKENIZER" \
    --item_embeddings="$VECTORS" --out="$OUT" "$@"
