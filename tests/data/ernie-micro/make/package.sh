#!/bin/sh
# package.sh DEST TEXT...: trains the model and puts beside it what stands in
# tests/data/ernie-micro. PYTHON names an interpreter with torch, transformers,
# sentencepiece, safetensors and numpy.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=${PYTHON:-python3}
[ $# -ge 2 ] || { echo "usage: package.sh DEST TEXT..." >&2; exit 64; }
dest=$1
shift
"$python" "$here/train.py" "$here/micro.json" "$dest" "$@"

cat >"$dest/generation_config.json" <<'JSON'
{
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
  "top_p": 0.8,
  "temperature": 0.8
}
JSON
cat >"$dest/tokenizer_config.json" <<'JSON'
{
  "tokenizer_class": "Ernie4_5_Tokenizer",
  "bos_token": "<s>",
  "eos_token": "</s>",
  "unk_token": "<unk>"
}
JSON

tmp=$(mktemp -d)
trap 'rm -r "$tmp"' EXIT
"$python" "$here/names.py" "$dest" "$tmp/torch"
"$python" "$here/../../../make_reference.py" "$tmp/torch" "$dest/tokens_test.npy" \
  "$dest/reference.npz" --prompts 1,9,33,64 --greedy 24 --valid 500
