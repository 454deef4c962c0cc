/* opts.h - options of the command line: one table per command, from which parsing, --help, the manual page and the
 * shell completions are made. Adding an option is adding a row. */
#ifndef OPTS_H
#define OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum opt_kind {
    OPT_GROUP, /* no option: `help` heads the rows that follow */
    OPT_HELP,  /* prints the command's help and ends */
    OPT_FLAG,  /* bool */
    OPT_INT,   /* int64_t in [min, max] */
    OPT_NUM,   /* double in [min, max] */
    OPT_TEXT,  /* const char * */
    OPT_FILE,  /* const char *, a path */
    OPT_WORD,  /* const char *, a word of `arg` */
    OPT_TEXTS, /* text_list, repeatable */
    OPT_FILES, /* text_list of paths, repeatable */
    OPT_NUMS   /* num_list: numbers in [min, max] with commas between */
} opt_kind;

enum {
    OPT_HIDDEN = 1, /* not in texts */
    OPT_RECIPE = 2  /* decides what an image looks like: may be taken from an image's metadata */
};

typedef struct text_list {
    const char **p; /* the strings are borrowed from argv or from the giver of opts_set */
    size_t n;
} text_list;

typedef struct num_list {
    double *p;
    size_t n;
} num_list;

/* One row. A value that no option and no default sets stays as the caller initialised it. */
typedef struct opt_def {
    const char *name; /* long name, without dashes */
    char letter;      /* short name; 0: none */
    opt_kind kind;
    size_t at;         /* offset of the value in the command's struct */
    const char *arg;   /* name of the argument in texts; of OPT_WORD: its words, "a|b|c" */
    const char *value; /* default, parsed like the user's text */
    const char *shown; /* default in words, where it is no value */
    const char *bare;  /* value when the option stands without one; NULL: it must have one */
    double min, max;
    unsigned flags;
    const char *help;
} opt_def;

#define OPTS_MAX 64 /* rows of a table */

static inline bool opt_shown(const opt_def *d)
{
    return d->name && !(d->flags & OPT_HIDDEN);
}

static inline bool opt_takes_value(const opt_def *d)
{
    return d->kind > OPT_FLAG;
}

typedef struct cmd_def {
    const char *name, *summary;
    const char *usage;         /* what follows the name in the usage line */
    const char *operand_words; /* "a|b|c" when operands are chosen from a list; NULL: free */
    int min_operands, max_operands;
    const char *details; /* paragraph of the manual page and the help; NULL: none */
    const opt_def *rows;
    size_t n_rows;
    int (*run)(int argc, char **argv); /* argv[0]: the command's name; returns the exit code */
} cmd_def;

/* A parsed command line. */
typedef struct cmd_line {
    const cmd_def *cmd;
    void *values;         /* the command's struct; belongs to the caller */
    bool given[OPTS_MAX]; /* rows that the command line has */
    char **operands;      /* in argv */
    int n_operands;
} cmd_line;

/* Sets defaults and options in `values`. True: go on. False: *code is the exit code, the help or the error is printed.
 * Either way opts_free ends it. */
bool opts_parse(cmd_line *o, const cmd_def *cmd, int argc, char **argv, void *values, int *code);
void opts_free(cmd_line *o);
/* Whether the command line has the option of this long name, which the table must contain. */
bool opts_given(const cmd_line *o, const char *name);
/* Sets row `row` from text as if the user had written it. False: why[] tells what is wrong, in the form "'x' is not
 * ...". */
bool opts_set(cmd_line *o, size_t row, const char *text, char *why, size_t size);

/* Reports wrong use of a command (NULL: of the program) in one line; returns the exit code. */
int usage_error(const cmd_def *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The word of `words` ("a|b|c") most like `word`, in buf; NULL when none is near. */
const char *nearest(const char *word, const char *words, char *buf, size_t size);

/* Options of every command that works on a context. */
typedef struct common_args {
    bool verbose, quiet, log_json;
    const char *progress; /* "auto" "bar" "json" "none" */
    const char *device;   /* NULL: the best */
} common_args;

/* Rows of a table. The first argument is the command's struct, `member` the value's place in it; behind the name of the
 * argument come the help and any of the fields below. */
#define OPT_ROW(T, kind_, name_, letter_, member, arg_, ...)                                                           \
    {                                                                                                                  \
        .kind = kind_, .name = name_, .letter = letter_, .at = offsetof(T, member), .arg = arg_, .help = __VA_ARGS__   \
    }
#define RANGE(from, to) .min = from, .max = to
#define DEFAULT(text)   .value = text
#define SHOWN(text)     .shown = text
#define BARE(text)      .bare = text
#define RECIPE          .flags = OPT_RECIPE
#define HIDDEN          .flags = OPT_HIDDEN

#define ROW_TYPE(T, member)                                                                                            \
    OPT_ROW(T, OPT_WORD, "type", 0, member, "f32|f16|bf16", "storage of the weights on the device; arithmetic is f32", \
            DEFAULT("f16"), RECIPE)
#define ROW_DEVICE(T)                                                                                                  \
    OPT_ROW(T, OPT_TEXT, "device", 'd', common.device, "P:D|NAME|gpu|cpu|any",                                         \
            "device that computes, see 'add-cl devices'", SHOWN("$ADDCL_DEVICE, else the best usable one"))
#define ROW_PROGRESS(T)                                                                                                \
    OPT_ROW(T, OPT_WORD, "progress", 0, common.progress, "auto|bar|json|none",                                         \
            "progress on standard error: a bar, JSON lines or nothing; auto: a bar on a terminal", DEFAULT("auto"))
#define ROW_LOG_JSON(T)                                                                                                \
    OPT_ROW(T, OPT_FLAG, "log-json", 0, common.log_json, NULL, "messages on standard error as JSON lines")
#define ROW_VERBOSE(T) OPT_ROW(T, OPT_FLAG, "verbose", 'v', common.verbose, NULL, "tell more")
#define ROW_QUIET(T)   OPT_ROW(T, OPT_FLAG, "quiet", 'q', common.quiet, NULL, "tell errors only")
#define ROW_HELP                                                                                                       \
    {                                                                                                                  \
        .kind = OPT_HELP, .name = "help", .letter = 'h', .help = "show this help and end"                              \
    }
#define ROWS_REPORT(T) ROW_LOG_JSON(T), ROW_VERBOSE(T), ROW_QUIET(T), ROW_HELP

#endif
