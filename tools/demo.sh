#!/bin/sh
# The whole of ccq on a small model: installs what is missing (as root, with
# apt), builds, quantizes tests/data/ernie-micro, looks at the result, and
# compares it with stored outputs of transformers.
#
#   sh tools/demo.sh
set -u

ccq_top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
# shellcheck source=tests/setup.sh
. "$ccq_top/tests/setup.sh"
cd "$ccq_top" || exit 1

model=tests/data/ernie-micro
out=build/demo/ernie-micro-wint2
bin=build/tools

step() {
  printf '\n== %s\n' "$1"
}

# Shows a command, then runs it; the demo ends where one fails.
run() {
  printf '\n$'
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./,=:+-]*) printf " '%s'" "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
  "$@" && return
  status=$?
  echo "The demo stops here: this command ended with status $status." >&2
  exit "$status"
}

step "1. What the build needs"
ccq_need_packages || exit 1
echo "All there."

step "2. Build"
echo "A release build in build/; a minute on a small machine, seconds the next time."
ccq_build build || exit 1
run $bin/ccq-quantize --version

step "3. Quantize"
cat <<'TEXT'
tests/data/ernie-micro is a small ERNIE-4.5 model with experts, really trained
(on Shakespeare), in BF16: 16 bits a weight. Its layers 1 to 5 have experts.
The default recipe keeps the experts of the first four such layers in 4 bits
(wint4) and puts the rest in 2 bits (wint2). That suits a model of 54 layers;
here it would leave one layer in 2 bits. --w4-end-layer 1 keeps 4 bits for
layer 1 alone, so layers 2 to 5 are WINT2. All other linear layers get 8 bits.
TEXT
mkdir -p build/demo || exit 1
run $bin/ccq-quantize --w4-end-layer 1 --overwrite $model $out
cat <<'TEXT'

SQNR is signal over noise, of the weights alone, in dB: 6 dB more is half the
error. Two bits give about 10 dB, four about 20, eight about 40.
TEXT

step "4. Look at what was written"
echo "One row a layer: how each part is stored, and how many bits a weight takes."
run $bin/ccq-inspect $out
echo
echo "And check it: config, index, shards, shapes, types, ranges and checksums."
run $bin/ccq-inspect --verify $out

step "5. A few words"
if $bin/ccq-run --version | grep -q '^sentencepiece: built'; then
  prompt="--prompt=ROMEO:"
else
  echo "(Built without SentencePiece, so token ids go in and come out.)"
  prompt=--prompt-ids=342,355,343,459
fi
echo "The original, then the quantized model; always the likeliest token."
run $bin/ccq-run "$prompt" --temperature 0 --max-tokens 40 $model
run $bin/ccq-run "$prompt" --temperature 0 --max-tokens 40 $out

step "6. How far is it from the original?"
cat <<'TEXT'
reference.npz holds what transformers computes in float32 with the original
weights: logits of four prompts, continuations, and which experts were chosen.
First the original model. It must agree but for the last bits of float32:
this shows that ccq-run computes the model right.
TEXT
run $bin/ccq-run --numerics exact --reference $model/reference.npz $model
cat <<'TEXT'

Now the quantized model. What differs is what quantization did. KLD is the KL
divergence of its next-token distribution from the original's, in nats: 0 is no
difference. A model this small suffers far more than a large one.
TEXT
run $bin/ccq-run --numerics exact --reference $model/reference.npz $out

# The same figures once more, from the JSON that scripts use.
$bin/ccq-quantize --dry-run --json --w4-end-layer 1 $model build/demo/plan \
  >build/demo/plan.json 2>build/demo/log &&
  $bin/ccq-inspect --json --against $model $out >build/demo/inspect.json 2>>build/demo/log &&
  $bin/ccq-run --json --numerics exact --reference $model/reference.npz $model \
    >build/demo/bf16.json 2>>build/demo/log &&
  $bin/ccq-run --json --numerics exact --reference $model/reference.npz $out \
    >build/demo/wint2.json 2>>build/demo/log || {
  cat build/demo/log >&2
  exit 1
}
step "Summary"
python3 - $model $out <<'PYTHON'
import json, math, os, sys

def read(name):
    with open(f"build/demo/{name}.json", encoding="utf-8") as f:
        return json.load(f)

model, out = (os.path.getsize(d + "/model.safetensors") for d in sys.argv[1:])
plan, run, exact = read("plan"), read("wint2")["statistics"], read("bf16")["statistics"]
worst = {}
for t in read("inspect")["against"]:
    if "sqnr_db" in t:
        worst.setdefault(t["type"], []).append(t["sqnr_db"])
print(f"size                {model:>9} -> {out} bytes ({plan['bits_per_weight']:.2f} bits a weight)")
for kind, values in sorted(worst.items()):
    if kind.startswith("wint"):
        print(f"{kind} weights       SQNR {min(values):.2f} to {max(values):.2f} dB"
              f" ({len(values)} matrices)")
print(f"original, ccq-run   {exact['max_dlogit_over_rms']:.1e} largest logit difference"
      " from transformers, over rms")
print(f"quantized           mean KLD {run['mean_kld']:.4f} nats,"
      f" same best token {100 * run['same_top']:.1f} %,"
      f" perplexity {run['ppl_base']:.2f} -> {run['ppl']:.2f}")
PYTHON
