# cl2c.awk - makes the C table of the OpenCL C sources (src/dev/clsource.h) from the files given as arguments.
# Run as: LC_ALL=C awk -f cl2c.awk cl/common.h cl/conv.cl ... > clsource.c
# One string literal a line: no compiler limit is met, and the table can be read.

function fail(message)
{
    printf "%s:%d: %s\n", FILENAME, FNR, message | "cat >&2"
    failed = 1
    exit 1
}

function end_entry()
{
    if (open)
        print "     },"
}

BEGIN {
    print "/* Made by build-aux/cl2c.awk; do not edit. */"
    print "#include \"dev/clsource.h\""
    print ""
    print "const ac_cl_source ac_cl_sources[] = {"
}

FNR == 1 {
    end_entry()
    open = 1
    name = FILENAME
    sub(/.*\//, "", name)
    sub(/\.cl$/, "", name)
    printf "    {\"%s\",\n     \"#line 1 \\\"%s\\\"\\n\"\n", name, FILENAME
}

/[^\t -~]/ { fail("not ASCII: some OpenCL compilers refuse it") }

{
    gsub(/\\/, "&&")
    gsub(/"/, "\\\"")
    gsub(/\t/, "\\t")
    printf "     \"%s\\n\"\n", $0
}

END {
    if (!failed) {
        end_entry()
        print "    {0, 0},"
        print "};"
    }
}
