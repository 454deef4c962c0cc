#!/bin/sh
# train.sh - `add-cl train` on the 64 pictures of examples/emoji/data64: a whole run, resuming, being killed, full disks, numbers
# that are not finite. Prints TAP. ADD_CL, SRCDIR: see shell.sh. ADDCL_KILLS: how often a run is killed (5).

. "$(dirname "$0")/shell.sh"
kills=${ADDCL_KILLS:-5}

# train CODE NAME PATTERN ARGUMENT... - run() of `train run.ini`.
train()
{
    want=$1 name=$2 pattern=$3
    shift 3
    run "$want" "$name" "$pattern" train run.ini "$@"
}

# The parameters, moments and averages of a checkpoint.
tensors()
{
    sha256sum <"$1/checkpoints/step-$2/unet.safetensors"
}

newest()
{
    ls "$1/checkpoints" 2>/dev/null | grep '^step-[0-9]*$' | sort | tail -n 1
}

cat >run.ini <<EOF
[run]
method = diffusion
output_dir = run
max_train_steps = 20
report_steps = 1
[model]
config = $SRCDIR/examples/emoji/smoke
vae = $SRCDIR/models/emoji-teacher/vae
text_encoder = $SRCDIR/models/emoji-teacher/text_encoder
tokenizer = $SRCDIR/models/emoji-teacher/tokenizer
scheduler = $SRCDIR/models/emoji-teacher/scheduler
[data]
train_data_dir = $SRCDIR/examples/emoji/data64
validation_list = $SRCDIR/models/emoji-teacher/val_split.json
resolution = 64
random_flip = yes
train_batch_size = 4
cache_dir = $tmp/cache
[optimizer]
learning_rate = 1e-3
ema_decay = 0.9
lr_scheduler = cosine
lr_warmup_steps = 5
[validation]
validation_steps = 0
sample_steps = 0
num_validation_images = 4
num_inference_steps = 2
[checkpoint]
checkpointing_steps = 10
EOF

# ---- a run
train 0 "dry run" "TFLOP a step" --dry-run
check "a dry run leaves nothing" test ! -e run
train 0 "a run from scratch" "step 20/20" --set validation.validation_steps=20 --set validation.sample_steps=20
for f in config.ini log.csv events.jsonl report.html samples/step-000020.png checkpoints/step-000010/manifest.json \
    checkpoints/step-000020/state.json model/model_index.json model/unet/diffusion_pytorch_model.safetensors model/README.md; do
    check "it writes $f" test -s "run/$f"
done
check "20 rows of numbers" test "$(wc -l <run/log.csv)" -eq 21
"$ADD_CL" sample -m run/model -p heart --steps 2 -o heart.png >out 2>err
check "sample takes the exported model" test -s heart.png
"$ADD_CL" convert run/model single.safetensors >out 2>err && "$ADD_CL" sample -m single.safetensors -p heart --steps 2 -o again.png >out 2>err
check "and so converted to a single file" test -s again.png
train 2 "a run that is there is not overwritten" "go on with --resume"
train 0 "validation of a checkpoint" "held out" --validate --resume

# ---- resuming
train 0 "a run that loses what came after step 10" "" --set run.output_dir=halves --set checkpoint.checkpointing_steps=5
rm -rf halves/checkpoints/step-000015 halves/checkpoints/step-000020
train 0 "goes on from there" "going on from step 10" --set run.output_dir=halves --set checkpoint.checkpointing_steps=5 --resume
check "to the same bits as in one go" test "$(tensors run 000020)" = "$(tensors halves 000020)"
check "without a step twice in the log" test "$(cut -d, -f1 halves/log.csv | sort | uniq -d | wc -l)" -eq 0
printf 'x' | dd of=halves/checkpoints/step-000020/unet.safetensors bs=1 seek=5000 conv=notrunc 2>/dev/null
train 0 "a damaged checkpoint is passed over" "step-000020" --set run.output_dir=halves --set checkpoint.checkpointing_steps=5 --resume
check "and the run comes to the same end" test "$(tensors run 000020)" = "$(tensors halves 000020)"
train 0 "accumulated gradients" "step 3/3" --set run.output_dir=micro --set run.max_train_steps=3 --set optimizer.gradient_accumulation_steps=2

# ---- two players, through the features of a network that the trainer made
train 0 "a feature network" "step 2/2" --set run.method=clip --set run.output_dir=clip --set run.max_train_steps=2 --set model.config= --set model.vae= \
    --set model.text_encoder= --set model.scheduler= --set model.vit_hidden_size=64 --set model.vit_layers=2 --set model.vit_heads=2 \
    --set model.text_hidden_size=64 --set model.text_layers=2 --set model.text_heads=2
add="--set run.method=add --set run.output_dir=add --set run.max_train_steps=4 --set checkpoint.checkpointing_steps=2 --set model.config= \
    --set model.pretrained_model=$tmp/run/model --set discriminator.feature_network=$tmp/clip/model --set discriminator.feature_blocks=0,1"
train 0 "distillation with adversaries" "step 4/4" $add --set validation.validation_steps=4 --set validation.sample_steps=4
check "its log has both players" grep -q "adv,distill,hinge,r1,real_above,fake_below,adv_slope,feature_distance,distill_slope" add/log.csv
check "its student is a model" test -s add/model/unet/diffusion_pytorch_model.safetensors
check "which knows its sampler" grep -q '"_class_name": "LCMScheduler"' add/model/scheduler/scheduler_config.json
state()
{
    cat "add/checkpoints/step-$1"/*.safetensors | sha256sum
}
whole=$(state 000004)
rm -rf add/checkpoints/step-000004
train 0 "it resumes" "going on from step 2" $add --resume
check "to the same bits, of both players" test "$(state 000004)" = "$whole"

run 0 "the distillation of the examples" "step 20/20" train "$SRCDIR/examples/emoji/add-smoke.ini" --set run.output_dir="$tmp/add-smoke"
check "its sheet" test -s add-smoke/samples/step-000020.png

# ---- the other ways to a student
for method in gan ladd progressive reflow; do
    train 0 "a student by $method" "step 2/2" $add --set run.method=$method --set run.output_dir=$method --set run.max_train_steps=2 \
        --set discriminator.feature_whitening=yes --set distillation.reflow_steps=2
    check "is a model" test -s $method/model/unet/diffusion_pytorch_model.safetensors
done

# ---- low-rank updates: merged, or added to the base when sampling, they are the same model
train 0 "consistency by low-rank updates" "step 3/3" --set run.method=lcm --set run.output_dir=lora --set run.max_train_steps=3 --set model.lora_rank=4 \
    --set model.config= --set model.pretrained_model="$tmp/run/model" --set optimizer.learning_rate=1e-2
mkdir merged added
"$ADD_CL" sample -m lora/model -p heart --steps 2 --cfg-scale 0 --seed 1 --type f32 --sampler lcm -o merged/ 2>err
"$ADD_CL" sample -m run/model --lora lora/model/pytorch_lora_weights.safetensors -p heart --steps 2 --cfg-scale 0 --seed 1 --type f32 --sampler lcm -o added/ 2>err
"$ADD_CL" eval merged --reference added --pairs --json >out 2>err
check "merged or added" awk -F'"psnr":' 'NR == 2 { split($2, v, ","); good = v[1] > 45 } END { exit !good }' out

# ---- a table of variations
cat run.ini >base.ini
cat >>base.ini <<EOF2
[distillation]
student_timesteps = 499, 999
EOF2
sed -i -e 's/^method = .*/method = add/' -e 's/^max_train_steps = .*/max_train_steps = 1/' -e "s|^config = .*|pretrained_model = $tmp/run/model|" base.ini
printf '[discriminator]\nfeature_network = clip/model\nfeature_blocks = 0\n' >>base.ini
printf 'a heart\na star\n' >prompts
cat >ablation.ini <<EOF2
[ablation]
base = base.ini
output_dir = ablation
prompts_file = prompts
images = 4
reference = $SRCDIR/examples/emoji/data64
features = clip/model
seeds = 0, 1
[settings]
optimizer.learning_rate = 1e-3
optimizer.lr_warmup_steps = 0
[losses]
both =
adversarial only = distillation.distillation_weight=0 & distillation.space=latent
[weights]
2.5 =
EOF2
run 0 "ablate" "adversarial only" ablate ablation.ini
check "seed after seed" test "$(grep -o 'only, seed [01]\|both, seed [01]' err | cut -c12- | tr -d '\n')" = 0011
check "its table" grep -q "adversarial only .*| 2 |" ablation/ablation.md
check "with the settings of all rows" test "$(sed -n 2p ablation/losses/both/seed-0/run/log.csv | cut -d, -f13)" = 0.001
check "the same row is trained once" test "$(grep -c '| 2 |' ablation/ablation.md)" -eq 3 -a ! -e ablation/weights
check "four pictures a row" test "$(ls ablation/losses/both/seed-0/pictures | wc -l)" -eq 4
cp ablation/ablation.md first.md
run 0 "ablate again" "" ablate ablation.ini
check "does nothing again" test "$(grep -c step err)" -eq 0 -a "$(cmp first.md ablation/ablation.md; echo $?)" -eq 0

# ---- signals
long="--set run.output_dir=long --set run.max_train_steps=100000 --set checkpoint.checkpointing_steps=3"
begin()
{
    "$ADD_CL" train run.ini $long "$@" >out 2>err &
    pid=$!
}
# Waits until the run has written a checkpoint newer than $1 (at most a minute).
await()
{
    n=0
    while [ "$(newest long)" = "$1" ] && [ $n -lt 600 ]; do
        sleep 0.1
        n=$((n + 1))
    done
}
begin
await ""
"$ADD_CL" train run.ini $long --resume >out2 2>err2
check "a second trainer is refused" grep -q "$pid" err2
kill -TERM $pid
wait $pid
check "SIGTERM ends with 143" test $? -eq 143
last=$(tail -n 1 long/log.csv | cut -d, -f1)
check "after a checkpoint of the last step" test "$(newest long)" = "step-$(printf %06d "$last")"
# (Not in the background, where the shell has SIGINT ignored.)
timeout --preserve-status -k 60 -s INT 4 "$ADD_CL" train run.ini $long --resume >out 2>err
check "SIGINT ends with 130" test $? -eq 130

# ---- kill -9: at most one interval is lost, never a checkpoint
lost=0
i=0
while [ $i -lt "$kills" ]; do
    before=$(newest long)
    begin --resume
    await "$before"
    sleep "0.$((i * 7 % 10))$((i * 3 % 10))"
    kill -9 $pid
    wait $pid 2>/dev/null
    step=$(newest long | sed 's/step-0*//')
    row=$(tail -n 1 long/log.csv | cut -d, -f1)
    if [ $((row - step)) -gt 3 ] || ! "$ADD_CL" train run.ini $long --validate --resume >out 2>err2; then
        lost=$((lost + 1))
        echo "# killed at step $row with checkpoint $step: $(tail -n 1 err2)"
    fi
    i=$((i + 1))
done
check "killed $kills times, it goes on from the last checkpoint" test $lost -eq 0
check "and leaves no temporary folders behind for long" test "$(ls -A long/checkpoints | grep -c tmp)" -le 1

# ---- a full disk
kept=$(newest long)
(ulimit -f 512 && "$ADD_CL" train run.ini $long --resume >out 2>err)
check "a full disk is an error" test $? -eq 1
check "that says so" grep -q -i "file too large\|no space" err
check "and the checkpoint before is still there" test "$(newest long)" = "$kept"
"$ADD_CL" train run.ini $long --validate --resume >out 2>err
check "and whole" test $? -eq 0

# ---- numbers that are not finite
cp -R run/model broken
printf '\377\377\377\377' >nan
size=$(wc -c <broken/unet/diffusion_pytorch_model.safetensors)
dd if=nan of=broken/unet/diffusion_pytorch_model.safetensors bs=1 seek=$((size - 4)) conv=notrunc 2>/dev/null
train 6 "not a number: exit 6" "after 4 steps in a row" --set run.output_dir=nan-run --set model.config= --set model.vae= --set model.text_encoder= \
    --set model.tokenizer= --set model.scheduler= --set model.pretrained_model="$tmp/broken" --set run.max_bad_steps=4
check "naming the tensor" grep -q "time_emb\|element .* is " err
check "and saving nothing of it" test -z "$(newest nan-run)"

finish
