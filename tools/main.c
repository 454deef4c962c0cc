/* main.c - the program: picks the command. */
#include "gen_docs.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const cmd_def *const commands[] = {&cmd_sample,   &cmd_train, &cmd_eval,    &cmd_ablate,  &cmd_devices, &cmd_info,
                                   &cmd_selftest, &cmd_bench, &cmd_convert, &cmd_help};
const size_t n_commands = sizeof commands / sizeof commands[0];

static const cmd_def *find_command(const char *name)
{
    for (size_t i = 0; i < n_commands; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    char words[256] = "", like[32];
    size_t used = 0;

    for (size_t i = 0; i < n_commands; i++)
        used += (size_t)snprintf(words + used, sizeof words - used, "%s%s", i ? "|" : "", commands[i]->name);
    if (nearest(name, words, like, sizeof like))
        return usage_error(NULL, "unknown command '%s'; did you mean '%s'?", name, like);
    return usage_error(NULL, "unknown command '%s'", name);
}

/* --------------------------------------------------------------------------------------------- add-cl help */

typedef struct help_args {
    bool man, keys;
    const char *shell;
} help_args;

#define ROW(...) OPT_ROW(help_args, __VA_ARGS__)

static const opt_def help_rows[] = {
    ROW(OPT_FLAG, "man", 0, man, NULL, "manual page, as roff", HIDDEN),
    ROW(OPT_FLAG, "keys", 0, keys, NULL, "keys of training runs, as Markdown", HIDDEN),
    ROW(OPT_WORD, "completions", 0, shell, "bash|zsh|fish", "completion script", HIDDEN),
    ROW_HELP,
};

static int help(const cmd_line *o, const help_args *a)
{
    const cmd_def *cmd;

    if (a->man)
        docs_man(stdout);
    else if (a->keys)
        docs_keys_markdown(stdout);
    else if (a->shell)
        docs_completions(stdout, a->shell);
    else if (o->n_operands == 0)
        docs_overview(stdout);
    else if ((cmd = find_command(o->operands[0])))
        docs_help(stdout, cmd);
    else
        return unknown_command(o->operands[0]);
    return TOOL_OK;
}

static int run_help(int argc, char **argv)
{
    help_args a = {0};
    cmd_line o;
    int code;

    if (opts_parse(&o, &cmd_help, argc, argv, &a, &code))
        code = help(&o, &a);
    opts_free(&o);
    return code;
}

const cmd_def cmd_help = {
    .name = "help",
    .summary = "Shows the options of a command",
    .usage = "[COMMAND]",
    .max_operands = 1,
    .rows = help_rows,
    .n_rows = sizeof help_rows / sizeof help_rows[0],
    .run = run_help,
};

/* ---------------------------------------------------------------------------------------------------- main */

/* Makes descriptors 0 to 2 exist, so that no file opened later is taken for a standard stream. A closed output is
 * replaced by one that cannot be written: writing still fails. */
static void keep_standard_streams(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int dispatch(int argc, char **argv)
{
    const cmd_def *cmd;

    if (argc < 2) {
        docs_overview(stderr);
        return TOOL_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("add-cl %s\n", addcl_version());
        return TOOL_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        docs_overview(stdout);
        return TOOL_OK;
    }
    if ((cmd = find_command(argv[1])))
        return cmd->run(argc - 1, argv + 1);
    if (argv[1][0] == '-')
        return usage_error(NULL, "unknown option '%s'", argv[1]);
    return unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
    bool lost;
    int code;

    keep_standard_streams();
    setvbuf(stderr, NULL, _IOLBF, 0); /* a message is one write */
    signal(SIGPIPE, SIG_IGN);         /* a closed pipe is a write error like any other, */
    signal(SIGXFSZ, SIG_IGN);         /* and so is a file that may not grow */
    code = dispatch(argc, argv);
    errno = 0;
    lost = ferror(stdout) != 0;
    lost |= fclose(stdout) != 0;
    if (lost && code == TOOL_OK) {
        fprintf(stderr, "add-cl: error: standard output: %s\n", errno ? strerror(errno) : "cannot be written");
        code = TOOL_FAILED;
    }
    return code;
}
