#!/bin/sh
# The whole of ccq on a small model: installs what is missing (as root, with
# apt), builds, quantizes tests/data/ernie-micro, looks at the result, and
# compares it with the original and with stored outputs of transformers.
#
#   sh tools/demo.sh
#
# shellcheck disable=SC2016 # '$' in sed scripts
set -u

ccq_top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
# shellcheck source=tests/setup.sh
. "$ccq_top/tests/setup.sh"
cd "$ccq_top" || exit 1

model=tests/data/ernie-micro
out=build/demo/ernie-micro-wint2
log=build/demo/log
bin=build/tools

step() {
  printf '\n== %s\n\n' "$1"
}

show() {
  printf '\n$'
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./,=:+-]*) printf " '%s'" "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
}

stop() {
  echo "The demo stops here: the command above ended with status $1." >&2
  exit "$1"
}

# Shows a command, then runs it; the demo ends where one fails.
run() {
  show "$@"
  "$@" || stop $?
}

# run_part SED COMMAND...: the same, but shows only a part of the answer.
run_part() {
  part=$1
  shift
  show "$@"
  "$@" >"$log" 2>&1 || {
    status=$?
    cat "$log" >&2
    stop "$status"
  }
  sed -n "$part" "$log"
}

step "1. What the build needs"
ccq_need_packages || exit 1
echo "All there."

step "2. Build"
echo "A release build in build/: a minute on a small machine, seconds the next time."
ccq_build build -Dcuda=disabled || exit 1
mkdir -p build/demo || exit 1
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
# Progress is one line on a terminal and one line a tensor elsewhere; here the
# table at the end is enough.
run_part '/^type/,$p' $bin/ccq-quantize --w4-end-layer 1 --overwrite $model $out
cat <<'TEXT'

SQNR is signal over noise, of the weights alone, in dB: 6 dB more is half the
error. wint2 is 2 bits and scales: 2.69 bits a weight here, where columns are
short, 2.08 in the 300B model.
TEXT

step "4. Look at what was written"
echo "How each part is stored: one row a type, then one row a layer."
run_part '/^  type/,$p' $bin/ccq-inspect $out
echo
echo "Check it: config, index, shards, shapes, types, ranges and checksums."
run_part '/^verify/p' $bin/ccq-inspect --verify $out

step "5. A few words"
echo "The original, then the quantized model; always the likeliest token."
if $bin/ccq-run --version | grep -q '^sentencepiece: built'; then
  words='s/.*"text":"\([^"]*\)".*/ROMEO:\1/;s/\\n/\n/g;/^ROMEO:/p'
  set -- --prompt ROMEO:
else
  echo "(Built without SentencePiece, so token ids go in and come out.)"
  words='/"ids"/p'
  set -- --prompt-ids 384,468,478,467,468,460
fi
run_part "$words" $bin/ccq-run "$@" --temperature 0 --max-tokens 40 $model
run_part "$words" $bin/ccq-run "$@" --temperature 0 --max-tokens 40 $out

step "6. Does ccq-run compute the model right?"
cat <<'TEXT'
reference.npz holds what transformers computes in float32 with the original
weights: logits of four prompts, continuations, and which experts were chosen.
The original must agree with it but for the last bits of float32.
TEXT
run_part '/ccq statistics/,$p' $bin/ccq-run --quiet --numerics exact \
  --reference $model/reference.npz --gate tests/gates.json $model

step "7. What did quantization change?"
cat <<'TEXT'
KLD is the KL divergence of the quantized model's next-token distribution from
the original's, in nats; 0 is no difference. First over 30,000 tokens of text
that training never saw, with the original run beside it.
TEXT
run_part '/PPL(Q)  /p;/PPL(base)  /p;/ KLD:/p;/Same top/p' $bin/ccq-run --quiet --numerics exact \
  --baseline $model --tokens $model/tokens_test.npy --window 256 $out
echo
echo "Then against the stored reference, as for the original above."
run_part '/PPL(Q)  /p;/PPL(base)  /p;/ KLD:/p;/Same top/p' $bin/ccq-run --quiet --numerics exact \
  --reference $model/reference.npz $out

# The same figures once more, from the JSON that scripts use.
json() {
  name=$1
  shift
  "$@" >"build/demo/$name.json" 2>"$log" || {
    cat "$log" >&2
    exit 1
  }
}
json inspect $bin/ccq-inspect --json --against $model $out
json original $bin/ccq-run --json --numerics exact --reference $model/reference.npz $model
json quantized $bin/ccq-run --json --numerics exact --reference $model/reference.npz $out
step "In short"
python3 - $model $out <<'PYTHON'
import json, os, sys

def read(name):
    with open(f"build/demo/{name}.json", encoding="utf-8") as f:
        return json.load(f)

before, after = (os.path.getsize(d + "/model.safetensors") for d in sys.argv[1:])
print(f"size       {before:,} -> {after:,} bytes")
kinds = {}
for tensor in read("inspect")["against"]:
    if "sqnr_db" in tensor and tensor["type"].startswith("wint"):
        kinds.setdefault(tensor["type"], []).append(tensor["sqnr_db"])
for kind, db in sorted(kinds.items()):
    print(f"{kind}      {len(db)} matrices, SQNR {min(db):.2f} to {max(db):.2f} dB")
r = read("original")["statistics"]
print("Against the reference of transformers:")
print(f"original   logits differ by {r['max_dlogit_over_rms']:.1e} of their rms at most,"
      f" mean KLD {r['mean_kld']:.1e} nats")
r = read("quantized")["statistics"]
print(f"quantized  mean KLD {r['mean_kld']:.4f} nats,"
      f" same likeliest token in {100 * r['same_top']:.1f} % of rows,"
      f" perplexity {r['ppl_base']:.2f} -> {r['ppl']:.2f}")
PYTHON
