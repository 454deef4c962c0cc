/* clsource.h - the OpenCL C sources compiled into the library. The table is generated from cl/ by build-aux/cl2c.awk. */
#ifndef AC_CLSOURCE_H
#define AC_CLSOURCE_H

typedef struct ac_cl_source {
    const char *name; /* file name without ".cl": "conv" for cl/conv.cl; headers keep theirs: "common.h" */
    const char *text; /* begins with `#line 1 "cl/conv.cl"`, so that compilers report places in the file */
} ac_cl_source;

/* Every file of cl/, ends with {NULL, NULL}. */
extern const ac_cl_source ac_cl_sources[];

#endif
