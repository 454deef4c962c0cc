/* gen_docs.c - help and manual page, made from the option tables and the table of keys. */
#include "gen_docs.h"
#include "tool.h"

#include <string.h>

#define WIDTH  80 /* columns of help texts */
#define INDENT 26 /* column of the explanations */

typedef struct term {
    const char *name, *text;
} term;

static const char about[] = "makes images from text with diffusion models, and trains them, on any OpenCL 1.2 device";

static const term exit_codes[] = {
    {"0", "success"},
    {"1", "failed: a file that cannot be read or written, an OpenCL error, a failed self-test"},
    {"2", "wrong use: an unknown or conflicting option or key, a value out of range"},
    {"3", "no usable OpenCL device"},
    {"4", "out of memory, on the host or on the device"},
    {"5", "a model that cannot be opened: missing, damaged, or of a kind that is not supported"},
    {"6", "diverged: a computation gave values that are not finite"},
    {"130, 143", "interrupted by SIGINT (Ctrl-C), by SIGTERM or SIGHUP, at the end of a step; nothing half-written is "
                 "left. A second signal ends the program at once"},
};

static const term environment[] = {
    {"ADDCL_DEVICE", "the device to use when --device is not given, in the same form"},
    {"ADDCL_MODEL_DIR", "folder of the model to use when --model is not given"},
    {"ADDCL_CACHE_DIR", "folder of compiled kernels and model hashes; default $XDG_CACHE_HOME/add-cl"},
    {"ADDCL_TRACE", "1: show every operation with its kernel, time and speed"},
    {"ADDCL_CHECK", "1: stop at the first value that is not finite and name the layer"},
    {"ADDCL_OFF", "passes of the graph compiler to leave out: fuse,plan,fold"},
    {"ADDCL_CL_DIR", "folder to read the kernels' sources from, instead of those built in"},
    {"OCL_ICD_VENDORS", "folder in which the OpenCL loader looks for drivers"},
    {"NO_COLOR", "not empty: no colours in messages"},
};

static const term files[] = {
    {"$XDG_CACHE_HOME/add-cl/",
     "compiled kernels and model hashes, may be deleted at any time; default ~/.cache/add-cl"},
};

static const term examples[] = {
    {"add-cl sample -p \"red heart, flat emoji\" --seed 7",
     "one image from the model that ships with add-cl, in out.png"},
    {"add-cl sample -m sd-turbo -p \"a lighthouse\" -b 4 -o lighthouse-%02d.png",
     "four images, numbered, from a folder"},
    {"add-cl sample -m sd21.safetensors -p \"a lighthouse\" -n fog --cfg-scale 7 --lora pencil.safetensors:0.8",
     "single-file model, negative prompt and LoRA"},
    {"add-cl sample -p \"red apple\" -i sketch.png --strength 0.6 -o - | display", "image to image, written to a pipe"},
    {"add-cl sample --from-image out.png --steps 50", "the run of an earlier image again, with more steps"},
    {"add-cl train --print-config >run.ini", "a configuration to fill in"},
    {"add-cl train run.ini --set optimizer.learning_rate=2e-4", "train, with another learning rate than in the file"},
    {"add-cl train run.ini --resume", "go on after an interruption"},
    {"add-cl eval made --reference real --features dinov2-small -o report", "FID, KID, precision and recall, and a page with them"},
    {"add-cl info out.png", "how an image was made"},
    {"add-cl convert models/emoji-teacher teacher.safetensors --type f16", "a folder as one file"},
    {"add-cl devices --check", "which OpenCL devices there are and whether they work"},
};

/* Prints text wrapped between columns `indent` and WIDTH; the cursor stands at column `at`. Ends the line. */
static void wrap(FILE *f, const char *text, size_t indent, size_t at)
{
    bool first = true;

    if (at < indent)
        fprintf(f, "%*s", (int)(indent - at), "");
    at = at < indent ? indent : at;
    for (size_t n; *text; text += n, text += strspn(text, " ")) {
        n = strcspn(text, " ");
        if (!first && at + 1 + n > WIDTH) {
            fprintf(f, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            putc(' ', f);
            at++;
        }
        fprintf(f, "%.*s", (int)n, text);
        at += n;
        first = false;
    }
    putc('\n', f);
}

/* The default of a row in words; "" when there is none to tell. */
static void default_text(const opt_def *d, char *buf, size_t size)
{
    const char *text = d->shown ? d->shown : d->value;

    buf[0] = '\0';
    if (text)
        snprintf(buf, size, " (default: %s)", text);
}

static void help_row(FILE *f, const opt_def *d)
{
    char left[96], text[512], fallback[128];
    int n;

    n = snprintf(left, sizeof left, "  %c%c%s --%s", d->letter ? '-' : ' ', d->letter ? d->letter : ' ',
                 d->letter ? "," : " ", d->name);
    if (opt_takes_value(d))
        snprintf(left + n, sizeof left - (size_t)n, d->bare ? "[=%s]" : " %s", d->arg);
    default_text(d, fallback, sizeof fallback);
    snprintf(text, sizeof text, "%s%s", d->help, fallback);
    fputs(left, f);
    if (strlen(left) + 1 >= INDENT) {
        putc('\n', f);
        left[0] = '\0';
    }
    wrap(f, text, INDENT, strlen(left));
}

void docs_help(FILE *f, const cmd_def *cmd)
{
    fprintf(f, "Usage: add-cl %s %s\n\n", cmd->name, cmd->usage);
    wrap(f, cmd->summary, 0, 0);
    if (cmd->details) {
        putc('\n', f);
        wrap(f, cmd->details, 0, 0);
    }
    putc('\n', f);
    for (size_t i = 0; i < cmd->n_rows; i++) {
        const opt_def *d = &cmd->rows[i];
        if (d->kind == OPT_GROUP)
            fprintf(f, "%s%s:\n", i ? "\n" : "", d->help);
        else if (opt_shown(d))
            help_row(f, d);
    }
}

void docs_overview(FILE *f)
{
    fprintf(f, "Usage: add-cl COMMAND [OPTION]...\n       add-cl --version | --help | help COMMAND\n\nadd-cl ");
    wrap(f, about, 0, strlen("add-cl "));
    fputs("\nCommands:\n", f);
    for (size_t i = 0; i < n_commands; i++)
        fprintf(f, "  %-12s%s\n", commands[i]->name, commands[i]->summary);
    fputs("\nExample:\n", f);
    fprintf(f, "  %s\n", examples[0].name);
}

/* --------------------------------------------------------------------------------------- keys of training runs */

/* "one of a, b; default: b; for vae, clip": what a key takes. */
static void key_rules(const addcl_train_key *k, char *buf, size_t size)
{
    const char *value = k->shown ? k->shown : k->fallback;
    int n = snprintf(buf, size, "%s%s%s; %s%s%s%s", k->expects, k->unit ? ", in " : "", k->unit ? k->unit : "",
                     value ? "default: " : "must be given", value ? value : "", k->student ? ", of students " : "", k->student ? k->student : "");

    if (k->methods && n > 0 && (size_t)n < size) {
        n += snprintf(buf + n, size - (size_t)n, "; for ");
        for (const char *c = k->methods; *c && (size_t)n + 3 < size; c++)
            n += snprintf(buf + n, size - (size_t)n, *c == '|' ? ", " : "%c", *c);
    }
}

void docs_keys(FILE *f)
{
    addcl_train_key k;
    char rules[512];
    const char *section = "";

    fputs("Keys of the INI file of a training run, by [section]. Relative paths start from the file's folder; lists "
          "have commas\nbetween; a comment stands after # or ; at the beginning of a line, or after ' ;'.\n",
          f);
    for (size_t i = 0; addcl_train_get_key(i, &k); i++) {
        if (strcmp(section, k.section) != 0)
            fprintf(f, "\n[%s]  %s\n", k.section, k.section_meaning);
        section = k.section;
        key_rules(&k, rules, sizeof rules);
        fprintf(f, "\n  %s\n", k.name);
        wrap(f, k.meaning, 6, 0);
        wrap(f, rules, 6, 0);
    }
}

/* Prints text for a cell of a table. */
static void markdown(FILE *f, const char *text)
{
    for (; *text; text++) {
        if (strchr("|*<_", *text))
            putc('\\', f);
        putc(*text, f);
    }
}

void docs_keys_markdown(FILE *f)
{
    addcl_train_key k;
    char rules[512];
    const char *section = "";

    for (size_t i = 0; addcl_train_get_key(i, &k); i++) {
        if (strcmp(section, k.section) != 0)
            fprintf(f, "%s### [%s] %s\n\n| key | meaning | value |\n|---|---|---|\n", i ? "\n" : "", k.section,
                    k.section_meaning);
        section = k.section;
        key_rules(&k, rules, sizeof rules);
        fprintf(f, "| `%s` | ", k.name);
        markdown(f, k.meaning);
        fputs(" | ", f);
        markdown(f, rules);
        fputs(" |\n", f);
    }
}

/* ----------------------------------------------------------------------------------------------- manual page */

/* Prints text with roff's special characters taken literally. */
static void roff(FILE *f, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", f);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", f);
        else if (*text == '-')
            fputs("\\-", f);
        else if (*text == '\'')
            fputs("\\(aq", f);
        else if (*text == '~')
            fputs("\\(ti", f);
        else if (*text == '^')
            fputs("\\(ha", f);
        else
            putc(*text, f);
    }
}

static void man_terms(FILE *f, const char *title, const term *t, size_t n)
{
    fprintf(f, ".SH %s\n", title);
    for (size_t i = 0; i < n; i++) {
        fputs(".TP\n\\fB", f);
        roff(f, t[i].name);
        fputs("\\fR\n", f);
        roff(f, t[i].text);
        putc('\n', f);
    }
}

static void man_row(FILE *f, const opt_def *d)
{
    char fallback[128];

    fputs(".TP\n", f);
    if (d->letter)
        fprintf(f, "\\fB\\-%c\\fR, ", d->letter);
    fputs("\\fB", f);
    roff(f, "--");
    roff(f, d->name);
    fputs("\\fR", f);
    if (opt_takes_value(d)) {
        fputs(d->bare ? "[=\\fI" : " \\fI", f);
        roff(f, d->arg);
        fputs(d->bare ? "\\fR]" : "\\fR", f);
    }
    putc('\n', f);
    default_text(d, fallback, sizeof fallback);
    roff(f, d->help);
    roff(f, fallback);
    putc('\n', f);
}

static void man_command(FILE *f, const cmd_def *cmd)
{
    fputs(".SS \"", f);
    roff(f, "add-cl ");
    roff(f, cmd->name);
    putc(' ', f);
    roff(f, cmd->usage);
    fputs("\"\n", f);
    roff(f, cmd->summary);
    fputs(".\n", f);
    if (cmd->details) {
        fputs(".PP\n", f);
        roff(f, cmd->details);
        putc('\n', f);
    }
    for (size_t i = 0; i < cmd->n_rows; i++) {
        const opt_def *d = &cmd->rows[i];
        if (d->kind == OPT_GROUP)
            fprintf(f, ".PP\n\\fI%s\\fR\n", d->help);
        else if (opt_shown(d))
            man_row(f, d);
    }
}

static void man_keys(FILE *f)
{
    addcl_train_key k;
    char rules[512];
    const char *section = "";

    fputs(".SH TRAINING RUNS\n", f);
    roff(f, "The keys of the INI file, by section. Relative paths start from the file's folder; lists have commas "
            "between; a comment stands after # or ; at the beginning of a line, or after a blank and ;.");
    putc('\n', f);
    for (size_t i = 0; addcl_train_get_key(i, &k); i++) {
        if (strcmp(section, k.section) != 0) {
            fprintf(f, ".SS \"[%s] ", k.section);
            roff(f, k.section_meaning);
            fputs("\"\n", f);
        }
        section = k.section;
        key_rules(&k, rules, sizeof rules);
        fprintf(f, ".TP\n\\fB%s\\fR\n", k.name);
        roff(f, k.meaning);
        fputs(" (", f);
        roff(f, rules);
        fputs(")\n", f);
    }
}

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

void docs_man(FILE *f)
{
    fprintf(f,
            ".\\\" Made from the option tables by 'add-cl help --man'.\n.TH ADD\\-CL 1 \"\" \"add-cl %s\" \"User "
            "Commands\"\n.SH NAME\nadd\\-cl \\- ",
            addcl_version());
    roff(f, about);
    fputs("\n.SH SYNOPSIS\n\\fBadd\\-cl\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]...\n.br\n\\fBadd\\-cl\\fR "
          "\\fB\\-\\-version\\fR | \\fB\\-\\-help\\fR | \\fBhelp\\fR \\fICOMMAND\\fR\n.SH DESCRIPTION\n",
          f);
    roff(f,
         "Images, lists and reports go to files and standard output; messages and progress go to standard error. Long "
         "options may be shortened as far as they stay unambiguous. Nothing is ever downloaded.");
    fputs("\n.SH COMMANDS\n", f);
    for (size_t i = 0; i < n_commands; i++)
        man_command(f, commands[i]);
    man_keys(f);
    man_terms(f, "EXIT STATUS", exit_codes, COUNT(exit_codes));
    man_terms(f, "ENVIRONMENT", environment, COUNT(environment));
    man_terms(f, "FILES", files, COUNT(files));
    man_terms(f, "EXAMPLES", examples, COUNT(examples));
}
