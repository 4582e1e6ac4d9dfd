#!/bin/sh
# What is worth measuring on a GPU: the efficiency study in two number types, and the training of
# a Recommendation LLM of T5-small's size. Each step takes some minutes on one H100-class GPU.
#
#   sh benchmarks/gpu.sh DATA_PATH T5_TOKENIZER OUT
#
# The host needs no network if MiniLM's item vectors are in .cache/item_embeddings: any CPU run
# with --item_llm=minilm on ml-1m puts them there.
set -eu
DATA=$1 TOKENIZER=$2 OUT=$3

for dtype in "" --autocast=bfloat16; do
    python3 -m recbole_lite reproduce table5 --dataset=ml-1m --data_path="$DATA" \
        --tokenizer="$TOKENIZER" --repeats=7 --out="$OUT/efficiency" $dtype
done
python3 -m recbole_lite ablate --dataset=ml-1m --data_path="$DATA" \
    --config_files=properties/prefix/ml-1m-t5-small.yaml --rows=LiteLLM4Rec --out="$OUT/t5-small"
python3 -m recbole_lite ablate --dataset=ml-1m --data_path="$DATA" \
    --config_files=properties/prefix/ml-1m.yaml --rows=LiteLLM4Rec --epochs=40 \
    --rec_llm_dropout=0.2 --out="$OUT/longer"
