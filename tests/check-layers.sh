#!/bin/sh
# check-layers.sh - greps the #include lines: a layer includes headers of itself and of the layers below it
# (docs/architecture.md). Prints TAP, one case a layer.

cd "${srcdir:-.}" || exit 99

find include src tools -name '*.[ch]' ! -name clsource.c | sort |
xargs grep -HE '^[[:space:]]*#[[:space:]]*include' |
awk '
BEGIN {
    # folder: the folders whose headers its files may include; "." is a header without a folder.
    may["base"] = "base"
    may["dev"] = "dev base"
    may["graph"] = "graph dev base"
    may["ops"] = "ops graph dev base"
    may["io"] = "io base"
    may["model"] = "model ops graph dev io base"
    may["diff"] = "diff model ops graph dev io base"
    may["eval"] = "eval api diff model ops graph dev io base" # metrics of pictures: like train
    may["train"] = "train api diff model ops graph dev io base" # a run: above the models of the public interface, beside it
    may["api"] = "api train eval diff model ops graph dev io base"
    may["tools"] = "."
    may["include"] = ""
    layers = split("base dev graph ops io model diff train eval api tools include", layer, " ")
}

function folder_of(header)
{
    if (header ~ /^api/)
        return "api"
    return sub(/\/.*/, "", header) ? header : "."
}

# The public header is everyone`s; the list of ops is data, from which the graph layer makes its enum; only dev knows
# OpenCL, only base MPI.
function allowed(from, header, angled)
{
    if (header ~ /^(CL\/|clblast|clFFT)/)
        return from == "dev"
    if (header ~ /^mpi/)
        return from == "base"
    if (angled || header == "addcl.h" || (from == "graph" && header == "ops/ops.def"))
        return 1
    return index(" " may[from] " ", " " folder_of(header) " ") > 0
}

{
    split($0, part, /[<>"]/)
    from = $0
    sub(/^src\//, "", from)
    from = from ~ /^api/ ? "api" : substr(from, 1, index(from, "/") - 1)
    lines[from]++
    if (!allowed(from, part[2], $0 ~ /</))
        bad[from] = bad[from] "# " $0 "\n"
}

END {
    print "1.." layers
    for (i = 1; i <= layers; i++) {
        name = layer[i]
        print (name in bad || !lines[name] ? "not ok " : "ok ") i " - " name
        printf "%s", (lines[name] ? bad[name] : "# no files found\n")
    }
}'
