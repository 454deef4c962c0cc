/* gen_docs.h - texts made from the option tables: help, manual page, shell completions. */
#ifndef GEN_DOCS_H
#define GEN_DOCS_H

#include <stdbool.h>
#include <stdio.h>
#include "opts.h"

/* The help of one command, and that of the program. */
void docs_help(FILE *f, const cmd_def *cmd);
void docs_overview(FILE *f);
/* The keys of training runs: for the terminal, and the reference in docs/training.md. */
void docs_keys(FILE *f);
void docs_keys_markdown(FILE *f);
/* The manual page add-cl(1), in roff's man macros. */
void docs_man(FILE *f);
/* The completion script for "bash", "zsh" or "fish". */
void docs_completions(FILE *f, const char *shell);

#endif
