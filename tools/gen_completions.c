/* gen_completions.c - completion scripts for bash, zsh and fish, made from the option tables. */
#include "gen_docs.h"
#include "tool.h"

#include <string.h>

static bool takes_file(const opt_def *d)
{
    return d->kind == OPT_FILE || d->kind == OPT_FILES;
}

/* Prints "a|b|c" with another separator. */
static void put_words(FILE *f, const char *words, const char *separator)
{
    for (; *words; words++) {
        if (*words == '|')
            fputs(separator, f);
        else
            putc(*words, f);
    }
}

static void put_command_names(FILE *f)
{
    for (size_t i = 0; i < n_commands; i++)
        fprintf(f, "%s%s", i ? " " : "", commands[i]->name);
}

/* Prints text for the inside of single quotes: `escaped` characters get a backslash, a quote becomes `quote`. */
static void put_quoted(FILE *f, const char *text, const char *escaped, const char *quote)
{
    for (; *text; text++) {
        if (*text == '\'') {
            fputs(quote, f);
            continue;
        }
        if (strchr(escaped, *text))
            putc('\\', f);
        putc(*text, f);
    }
}

/* ---- bash: one case for values of options, one for the names of options; files are readline's default. */

static void bash_values(FILE *f, const cmd_def *cmd, const opt_def *d)
{
    fprintf(f, "    %s:--%s", cmd->name, d->name);
    if (d->letter)
        fprintf(f, " | %s:-%c", cmd->name, d->letter);
    fputs(") ", f);
    if (d->kind == OPT_WORD) {
        fputs("words='", f);
        put_words(f, d->arg, " ");
        fputs("' ;;\n", f);
    } else {
        fputs("compopt +o default; return ;;\n", f);
    }
}

static void bash(FILE *f)
{
    fputs("# bash completion of add-cl, made from its option tables\n"
          "_add_cl()\n"
          "{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=\n"
          "    COMPREPLY=()\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "        mapfile -t COMPREPLY < <(compgen -W '",
          f);
    put_command_names(f);
    fputs(" --help --version' -- \"$cur\")\n"
          "        return\n"
          "    fi\n"
          "    case ${COMP_WORDS[1]}:$prev in\n",
          f);
    for (size_t i = 0; i < n_commands; i++) {
        const cmd_def *cmd = commands[i];
        for (size_t j = 0; j < cmd->n_rows; j++) {
            const opt_def *d = &cmd->rows[j];
            if (!opt_shown(d) || !opt_takes_value(d) || d->bare)
                continue;
            if (takes_file(d))
                fprintf(f, d->letter ? "    %s:--%s | %s:-%c) return ;;\n" : "    %s:--%s) return ;;\n", cmd->name,
                        d->name, cmd->name, d->letter);
            else
                bash_values(f, cmd, d);
        }
    }
    fputs("    *)\n"
          "        case ${COMP_WORDS[1]} in\n",
          f);
    for (size_t i = 0; i < n_commands; i++) {
        const cmd_def *cmd = commands[i];
        fprintf(f, "        %s) words='", cmd->name);
        if (cmd == &cmd_help)
            put_command_names(f);
        else if (cmd->operand_words)
            put_words(f, cmd->operand_words, " ");
        for (size_t j = 0; j < cmd->n_rows; j++)
            if (opt_shown(&cmd->rows[j]))
                fprintf(f, " --%s", cmd->rows[j].name);
        fputs("' ;;\n", f);
    }
    fputs("        esac\n"
          "        ;;\n"
          "    esac\n"
          "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
          "}\n"
          "complete -o default -F _add_cl add-cl\n",
          f);
}

/* ---- zsh: specifications for _arguments. */

static void zsh_row(FILE *f, const opt_def *d)
{
    const char *many = d->kind == OPT_TEXTS || d->kind == OPT_FILES ? "*" : "";

    fputs("        ", f);
    if (d->letter && *many)
        fprintf(f, "'*'{-%c+,--%s=}'[", d->letter, d->name);
    else if (d->letter)
        fprintf(f, "'(-%c --%s)'{-%c%s,--%s%s}'[", d->letter, d->name, d->letter, opt_takes_value(d) ? "+" : "",
                d->name, opt_takes_value(d) ? "=" : "");
    else
        fprintf(f, "'%s--%s%s[", many, d->name, d->bare ? "=-" : opt_takes_value(d) ? "=" : "");
    put_quoted(f, d->help, "[]:\\", "'\\''");
    putc(']', f);
    if (opt_takes_value(d)) {
        fputs(d->bare ? "::" : ":", f);
        put_quoted(f, d->kind == OPT_WORD ? d->name : d->arg, ":\\", "'\\''");
        putc(':', f);
        if (takes_file(d))
            fputs("_files", f);
        else if (d->kind == OPT_WORD) {
            putc('(', f);
            put_words(f, d->arg, " ");
            putc(')', f);
        }
    }
    fputs("' \\\n", f);
}

static void zsh(FILE *f)
{
    fputs("#compdef add-cl\n"
          "# zsh completion of add-cl, made from its option tables\n"
          "_add-cl() {\n"
          "    local curcontext=$curcontext state line\n"
          "    _arguments -C '(- *)--help[show help]' '(- *)--version[show the version]' '1:command:->command' "
          "'*::argument:->rest'\n"
          "    case $state in\n"
          "    command)\n"
          "        local -a names=(\n",
          f);
    for (size_t i = 0; i < n_commands; i++) {
        fprintf(f, "            '%s:", commands[i]->name);
        put_quoted(f, commands[i]->summary, "\\", "'\\''");
        fputs("'\n", f);
    }
    fputs("        )\n"
          "        _describe command names ;;\n"
          "    rest)\n"
          "        case $words[1] in\n",
          f);
    for (size_t i = 0; i < n_commands; i++) {
        const cmd_def *cmd = commands[i];
        fprintf(f, "        %s) _arguments \\\n", cmd->name);
        for (size_t j = 0; j < cmd->n_rows; j++)
            if (opt_shown(&cmd->rows[j]))
                zsh_row(f, &cmd->rows[j]);
        if (cmd == &cmd_help || cmd->operand_words) {
            fputs("        '*:name:(", f);
            if (cmd == &cmd_help)
                put_command_names(f);
            else
                put_words(f, cmd->operand_words, " ");
            fputs(")' ;;\n", f);
        } else {
            fputs(cmd->max_operands ? "        '*:file:_files' ;;\n" : "        ;;\n", f);
        }
    }
    fputs("        esac ;;\n"
          "    esac\n"
          "}\n"
          "_add-cl \"$@\"\n",
          f);
}

/* ---- fish: one line per option. */

static void fish_row(FILE *f, const cmd_def *cmd, const opt_def *d)
{
    fprintf(f, "complete -c add-cl -n '__fish_seen_subcommand_from %s' -l %s", cmd->name, d->name);
    if (d->letter)
        fprintf(f, " -s %c", d->letter);
    if (opt_takes_value(d) && !d->bare)
        fputs(takes_file(d) ? " -r -F" : " -x", f);
    if (d->kind == OPT_WORD) {
        fputs(" -a '", f);
        put_words(f, d->arg, " ");
        putc('\'', f);
    }
    fputs(" -d '", f);
    put_quoted(f, d->help, "\\", "\\'");
    fputs("'\n", f);
}

static void fish(FILE *f)
{
    fputs("# fish completion of add-cl, made from its option tables\n"
          "complete -c add-cl -n __fish_use_subcommand -f -l help -d 'show help'\n"
          "complete -c add-cl -n __fish_use_subcommand -f -l version -d 'show the version'\n",
          f);
    for (size_t i = 0; i < n_commands; i++) {
        const cmd_def *cmd = commands[i];
        fprintf(f, "complete -c add-cl -n __fish_use_subcommand -f -a %s -d '", cmd->name);
        put_quoted(f, cmd->summary, "\\", "\\'");
        fputs("'\n", f);
        if (cmd == &cmd_help || cmd->operand_words) {
            fprintf(f, "complete -c add-cl -n '__fish_seen_subcommand_from %s' -f -a '", cmd->name);
            if (cmd == &cmd_help)
                put_command_names(f);
            else
                put_words(f, cmd->operand_words, " ");
            fputs("'\n", f);
        }
        for (size_t j = 0; j < cmd->n_rows; j++)
            if (opt_shown(&cmd->rows[j]))
                fish_row(f, cmd, &cmd->rows[j]);
    }
}

void docs_completions(FILE *f, const char *shell)
{
    if (strcmp(shell, "bash") == 0)
        bash(f);
    else if (strcmp(shell, "zsh") == 0)
        zsh(f);
    else
        fish(f);
}
