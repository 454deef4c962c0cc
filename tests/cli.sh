#!/bin/sh
# cli.sh - the program as users meet it: options, exit codes, files. Prints TAP.
# ADD_CL, SRCDIR: see shell.sh.

. "$(dirname "$0")/shell.sh"

# usage NAME PATTERN ARGUMENT... - wrong use: exit code 2 and one line that matches; nothing on standard output, no image.
usage()
{
    run 2 "$@"
    if [ "$(wc -l <err)" -ne 1 ] || [ -s out ] || [ -e out.png ]; then
        not_ok "$1: one line and nothing else" "$(cat err)"
        rm -f out.png
    fi
}

# size_of PNG - "WIDTHxHEIGHT" from its header.
size_of()
{
    od -A n -t u1 -j 16 -N 8 "$1" | awk '{ print $1 * 16777216 + $2 * 65536 + $3 * 256 + $4 "x" $5 * 16777216 + $6 * 65536 + $7 * 256 + $8 }'
}

# ---- help

run 0 "--version" "" --version
check "--version prints the name and a number" grep -q '^add-cl [0-9]' out
run 0 "--help" "" --help
commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' out)
check "--help lists commands" test "$(echo "$commands" | wc -w)" -ge 6
for c in $commands; do
    run 0 "help $c" "" help "$c"
    mv out help.out
    run 0 "$c --help" "" "$c" --help
    check "help $c and $c --help agree" cmp -s out help.out
    sed -n 's/^ .*[ ]--\([a-z-]*\).*/\1/p' out >>options
done
run 0 "manual page" "" help --man
for o in $(sort -u options); do
    grep -q "$(echo "$o" | sed 's/-/\\\\-/g')" out || not_ok "manual page: --$o is missing"
done
check "manual page has the keys of training runs" grep -q 'B.*lr_warmup_steps' out
run 0 "keys as Markdown" "" help --keys
sed '1,/^<!-- Made by/d' "$SRCDIR/docs/training.md" | sed 1d >keys.md
check "docs/training.md has these keys" cmp keys.md out
run 0 "completions for bash" "" help --completions bash
check "completions know --cfg-scale" grep -q -e '--cfg-scale' out
run 0 "completions for zsh" "" help --completions zsh
run 0 "completions for fish" "" help --completions fish
run 2 "no command" "^Usage:"

# ---- wrong use

usage "unknown command" "did you mean 'sample'" smaple
usage "unknown option of the program" "unknown option '--frob'" --frob
usage "unknown option" "'--stepz'; did you mean '--steps'" sample -p x --stepz 3
usage "unknown short option" "unknown option '-Z'" sample -p x -Z
usage "ambiguous option" "ambiguous" sample -p x --vae-til 3
usage "option without its value" "'--steps' needs a value" sample -p x --steps
usage "flag with a value" "takes no value" sample -p x --quiet=1
usage "number out of range" "--steps: '0' is not a whole number from 1" sample -p x --steps 0
usage "number that is none" "--cfg-scale: 'much' is not a number" sample -p x --cfg-scale much
usage "number with a tail" "--seed: '7x'" sample -p x --seed 7x
usage "nan" "--cfg-scale: 'nan'" sample -p x --cfg-scale nan
usage "seed beyond 64 bits" "--seed: '99999999999999999999'" sample -p x --seed 99999999999999999999
usage "word not in the list" "--sampler: 'eulr' is not one of euler," sample -p x --sampler eulr
usage "list with a hole" "--timesteps: '9,,1'" sample -p x --timesteps 9,,1
usage "conflicting schedules" "exclude each other" sample -p x --steps 3 --sigmas 9,1
usage "no prompt" "no prompt" sample
usage "stray argument" "unexpected argument 'heart'" sample -p red heart
usage "strength without image" "--init-img" sample -p x --strength 0.5
usage "bench: unknown case" "'gem'; did you mean 'gemm'" bench gem
usage "convert: missing argument" "argument is missing" convert in
usage "prompt with an unknown LoRA" "<lora:no-such>" sample -p "x <lora:no-such:1>"
: >empty.txt
usage "prompt file without prompts" "no prompt in it" sample --prompt-file empty.txt
run 1 "prompt file that is not there" "cannot be read: No such file" sample --prompt-file missing.txt
head -c 1048577 /dev/zero | tr '\0' 'a' >big.txt
usage "prompt file of more than 1 MiB" "larger than" sample --prompt-file big.txt

# ---- wrong use of train

usage "train: no file" "no INI file" train
usage "train: two files" "unexpected argument 'b.ini'" train a.ini b.ini
usage "train: --set without a file" "no INI file to override" train --print-config --set run.seed=1
usage "train: conflicting options" "exclude each other" train a.ini --dry-run --validate
run 1 "train: file that is not there" "cannot open 'missing.ini'" train missing.ini
printf '[run]\nmethod = vae\noutput_dir = out\n[model]\nvae = v\n[data]\ntrain_data_dir = d\n' >run.ini
{ cat run.ini && echo 'resolutoin = 64'; } >wrong.ini
usage "train: unknown key" "wrong.ini:8: \[data\] resolutoin: unknown key; did you mean 'resolution'?" train wrong.ini
{ cat run.ini && echo 'resolution = 64x'; } >wrong.ini
usage "train: wrong value" "wrong.ini:8: .*64x: expected a whole number from 8" train wrong.ini
usage "train: wrong override" "^add-cl: error: --set: \[run\] sed: unknown key" train run.ini --set run.sed=1
run 3 "train: no such device" "no-such-device" train run.ini -d no-such-device
run 0 "train --list-keys" "" train --list-keys
check "explains learning_rate" grep -q '^  learning_rate$' out
run 0 "train --print-config without a file" "" train --print-config
check "prints only comments and sections" test -z "$(grep -v -e '^#' -e '^\[[a-z]*\]$' -e '^$' out)"
run 0 "train --print-config" "" train run.ini --print-config --set run.seed=7
check "has the override" grep -q '^seed = 7$' out
check "train left no run folder" test ! -e out/config.ini -a ! -d out.png
mv out effective.ini
run 0 "train --print-config of that" "" train effective.ini --print-config
check "prints the same" cmp -s out effective.ini

# ---- eval

usage "nothing to measure" "no pictures to measure" eval
usage "pairs without a reference" "needs a --reference" eval --pairs pictures
run 5 "a set that is none" "is no data set\|nowhere" eval nowhere
run 0 "pictures of the repository" "" eval "$SRCDIR/examples/emoji/data64" --caption '{label}'
check "their row" grep -q "data64  *64" out
run 0 "as JSON" "" eval --json "$SRCDIR/examples/emoji/data64"
check "an object" grep -q '"pictures": *64' out

printf '[ablation]\nbase = x.ini\nseedz = 1\n' >ablation.ini
run 2 "ablate: unknown key" "ablation.ini:3: .*did you mean 'seeds'" ablate ablation.ini
printf '[ablation]\nbase = x.ini\n[losses]\nboth = nonsense\n' >ablation.ini
run 2 "ablate: a row that sets nothing" "expected section.key=value" ablate ablation.ini
printf '[ablation]\nbase = x.ini\n[settings]\nmax_train_steps = 2\n' >ablation.ini
run 2 "ablate: a setting without its section" "ablation.ini:4: .*section.key" ablate ablation.ini
usage "ablate without a file" "no INI file" ablate

# ---- the files of the examples are understood: what is missing is the data
for ini in "$SRCDIR"/examples/emoji/*.ini; do
    case $ini in
    */ablation.ini)
        sed -e 's/^prompts_file = .*/prompts_file = nowhere/' "$ini" >ablation.ini
        run 5 "${ini##*/}" "nowhere" ablate ablation.ini
        ;;
    *) run 1 "${ini##*/}" "nowhere" train "$ini" --set data.train_data_dir="$PWD/nowhere" --set run.output_dir="$PWD/none" ;;
    esac
done

# ---- outputs that cannot be written are found before anything is computed

mkdir folder.png
run 1 "a folder in a folder that is not there" "cannot make the folder" sample -p x -o nowhere/new/
usage "output with %s" "one %d" sample -p x -o '%s.png'
usage "output with two numbers" "one %d" sample -p x -o '%d-%d.png'
usage "two images to standard output" "takes one image" sample -p x -p y -o -
run 1 "output in a folder that is not there" "no file can be made in 'nowhere'" sample -p x -o nowhere/x.png
if [ "$(id -u)" -ne 0 ]; then
    mkdir closed && chmod 555 closed
    run 1 "output in a folder without permission" "no file can be made" sample -p x -o closed/x.png
else
    skip "output in a folder without permission" "root may write anywhere"
fi

# ---- devices

run 0 "devices" "" devices
run 0 "devices --check" "" devices --check
check "devices --check finds one that works" grep -q '  works$' out
run 0 "devices --json" "" devices --json
check "devices --json is an array" grep -q '^\[{"platform":' out
run 0 "sample --list-devices" "" sample --list-devices
run 3 "no such device" "no-such-device" sample -p x -d no-such-device
mkdir no-icd
OCL_ICD_VENDORS_SAVED=${OCL_ICD_VENDORS-}
OCL_ICD_VENDORS=$tmp/no-icd
export OCL_ICD_VENDORS
run 3 "devices without a platform" "pocl-opencl-icd" devices
run 3 "sample without a platform" "pocl-opencl-icd" sample -p x
if [ -n "$OCL_ICD_VENDORS_SAVED" ]; then
    OCL_ICD_VENDORS=$OCL_ICD_VENDORS_SAVED
else
    unset OCL_ICD_VENDORS
fi

# ---- a model that cannot be used

run 0 "info of the default model" "" info --json
model=$(sed -n 's/.*"path":"\([^"]*\)".*/\1/p' out)
side=$(sed -n 's/.*"width":\([0-9]*\).*/\1/p' out)
check "info names the model's folder and size" test -d "$model" -a -n "$side"
run 0 "info as text" "" info
check "info tells the parameters" grep -q '^parameters' out
run 5 "model that is not there" "nowhere" sample -p x -m nowhere
mkdir broken
cp "$model/model_index.json" broken
run 5 "model folder without its parts" "broken" sample -p x -m broken
echo '{' >broken/model_index.json
run 5 "model folder with broken JSON" "broken" sample -p x -m broken
echo nonsense >model.safetensors
run 5 "file that is no safetensors" "model.safetensors" sample -p x -m model.safetensors
usage_size=$((side + 1))
run 2 "size that the model cannot do" "$usage_size" sample -p x -W $usage_size
check "failures leave no image" test ! -e out.png

# ---- images

run 0 "dry run" "" sample -p "red heart, flat emoji" --seed 7 --dry-run
check "dry run tells the work" grep -q '^work .*TFLOP' out
check "dry run writes nothing" test ! -e out.png
run 0 "sample" "^a.png  ${side}x$side  seed 7  2 steps" sample -p "red heart, flat emoji" --seed 7 --steps 2 -o a.png
check "sample prints nothing on standard output" test ! -s out
check "sample leaves no other file" test -z "$(find . -name '*a.png?*' -o -name '.a.png*')"
run 0 "sample again" "" sample -p "red heart, flat emoji" --seed 7 --steps 2 -o b.png
check "the same run gives the same bytes" cmp -s a.png b.png
run 0 "another seed" "" sample -p "red heart, flat emoji" --seed 8 --steps 2 -o c.png
check "another seed gives another image" test "$(cmp -s a.png c.png; echo $?)" -eq 1
run 0 "sample -q" "" sample -p "red heart, flat emoji" --seed 7 --steps 2 -o q.png -q
check "-q says nothing" test ! -s err

run 0 "info of an image" "" info a.png
check "its prompt" grep -q '^red heart, flat emoji$' out
check "its parameters" grep -q 'Steps: 2, .*Seed: 7, ' out
check "its recipe" grep -q '"seed": 7' out
run 0 "info --json of an image" "" info --json a.png
check "is one object" grep -q '^{.*"parameters":.*"add-cl":{.*}$' out
run 0 "repeat the run of an image" "" sample --from-image a.png -o again.png
check "it gives the same bytes" cmp -s a.png again.png
run 0 "repeat it with another seed" "seed 8" sample --from-image a.png --seed 8 -o again.png
check "options win over the recipe" cmp -s c.png again.png
run 0 "without metadata" "" sample --from-image a.png --no-metadata -o bare.png
run 0 "info of an image without metadata" "" info bare.png
check "tells that there is none" grep -q 'without data' out
run 2 "no recipe to repeat" "holds no data" sample --from-image bare.png -o again.png
head -c 200 a.png >cut.png
run 1 "info of a cut image" "cut.png" info cut.png

run 0 "two prompts" "several images" sample -p "red heart" -p "blue car" --seed 7 --steps 1 -o two.png
check "give two numbered files" test -s two-000.png -a -s two-001.png -a ! -e two.png
printf 'red heart\n\n  \nblue car\r\n' >prompts.txt
"$ADD_CL" sample --prompt-file - --seed 7 --steps 1 -q -o 'file%02d.png' <prompts.txt
check "prompts from standard input give the same" cmp -s two-001.png file01.png
run 0 "batches" "" sample -p "red heart" -b 2 --batch-size 2 --seed 7 --steps 1 -o 'batch%d.png'
check "make as many images" test -s batch0.png -a -s batch1.png
run 0 "one sheet" "sheet.png" sample -p "red heart" -p "blue car" --seed 7 --steps 1 --grid=2 -o sheet.png
check "of two columns" test "$(size_of sheet.png)" = "$((2 * side))x$side"
"$ADD_CL" sample -p "red heart" --seed 7 --steps 1 -q -o - >stdout.png
check "image on standard output" cmp -s two-000.png stdout.png
run 0 "image to image" "" sample -p "blue car" -i a.png --strength 0.5 --steps 4 --seed 7 -o i2i.png
check "has the image's size" test "$(size_of i2i.png)" = "${side}x$side"
run 2 "image to image with too few steps" "strength" sample -p x -i a.png --strength 0.1 --steps 2 -o none.png
run 1 "init image that is none" "prompts.txt" sample -p x -i prompts.txt -o none.png
run 0 "negative prompt without guidance" "has no effect" sample -p x -n y --cfg-scale 1 --steps 1 -o warn.png

run 0 "progress as JSON" '"event":"progress","stage":"sample"' sample -p x --steps 2 --progress json --log-json -o json.png
check "every line is an object" test -z "$(grep -v '^{.*}$' err)"

if [ -c /dev/full ]; then
    "$ADD_CL" sample -p x --steps 1 -o - >/dev/full 2>err
    check "image to a full device: exit code 1" test $? -eq 1
    "$ADD_CL" devices >/dev/full 2>err
    check "list to a full device: exit code 1" test $? -eq 1
    check "and one line" test "$(wc -l <err)" -eq 1
else
    skip "full device" "no /dev/full"
fi

# ---- signals

# interrupted SIGNAL CODE - a run that gets the signal in the middle ends with the code and leaves no file.
interrupted()
{
    mkdir "sig$1"
    : >err # of the run before: it would be taken for this one's
    # Shells start background jobs with SIGINT ignored.
    env --default-signal="$1" "$ADD_CL" sample -p x --steps 500 --sampler ddim --progress json -o "sig$1/x.png" 2>err &
    pid=$!
    tries=0
    until grep -q '"stage":"sample","done":[1-9]' err || [ $tries -ge 600 ] || ! kill -0 $pid 2>/dev/null; do
        sleep 0.2
        tries=$((tries + 1))
    done
    kill -s "$1" $pid
    wait $pid
    code=$?
    if [ $code -eq "$2" ] && [ -z "$(ls -A "sig$1")" ]; then
        ok "SIG$1 ends a run with $2 and no file"
    else
        not_ok "SIG$1 ends a run with $2 and no file" "exit code $code, files: $(ls -A "sig$1")" "$(tail -n 1 err)"
    fi
}

if env --default-signal=INT true 2>/dev/null; then
    interrupted INT 130
    interrupted TERM 143
else
    skip "signals" "env has no --default-signal"
fi

# ---- the other commands

run 0 "convert to a single file" "written" convert "$model" single.safetensors
run 0 "sample from it" "" sample -m single.safetensors -p "red heart, flat emoji" --seed 7 --steps 2 --no-metadata -o single.png
run 0 "sample from the folder" "" sample -m "$model" -p "red heart, flat emoji" --seed 7 --steps 2 --no-metadata -o folder-image.png
check "both give the same image" cmp -s single.png folder-image.png
run 0 "convert back to a folder" "" convert single.safetensors unpacked
run 0 "sample from that" "" sample -m unpacked -p "red heart, flat emoji" --seed 7 --steps 2 --no-metadata -o unpacked.png
check "it gives the same image" cmp -s single.png unpacked.png
run 5 "convert what is no model" "broken" convert broken converted.safetensors
check "convert leaves no partial file" test ! -e converted.safetensors
run 0 "info of a single file" "" info single.safetensors
check "counts its tensors" grep -q '^[0-9]* tensors, ' out
run 0 "info --plan" "" info --plan=unet
check "prints the plan on standard output" test -s out
run 0 "selftest with a pattern" "" selftest softmax
check "its last line counts" test -n "$(tail -n 1 out | grep '^[1-9][0-9]* passed, 0 failed, [0-9]* skipped$')"
run 2 "selftest of nothing" "no case has" selftest no/such/case
run 0 "bench" "" bench --reps 1 --json norm
check "prints JSON lines" test -z "$(grep -v '^{"case":"norm.*"seconds":.*"gbs":.*}$' out)"

finish
