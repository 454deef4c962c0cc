/* sample_output.c - names of the images, and the checks that save computing what cannot be written. */
#include "sample.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void sample_output_free(sample_output *out)
{
    free(out->head);
    free(out->tail);
}

/* Copies s[0..n) with "%%" as "%". NULL: memory is short. */
static char *literal(const char *s, size_t n)
{
    char *p = malloc(n + 1), *q = p;

    for (size_t i = 0; p && i < n; i++) {
        *q++ = s[i];
        i += s[i] == '%';
    }
    if (p)
        *q = '\0';
    return p;
}

/* The length of a number's place "%d", "%3d", "%03d" at s; 0 when it is none. */
static size_t number_place(const char *s)
{
    size_t n = 1 + strspn(s + 1, "0123456789");

    return s[n] == 'd' && n <= 3 ? n + 1 : 0;
}

/* Splits the pattern at its number's place. 0 or the exit code. */
static int split(sample_output *out, tool *t, const char *pattern)
{
    const char *place = NULL;
    size_t n = 0;

    for (const char *s = pattern; (s = strchr(s, '%')); s++) {
        if (s[1] == '%') {
            s++;
        } else if (place || !number_place(s)) {
            return usage_error(&cmd_sample,
                               "--output: '%s' may have one %%d or %%03d and no other %% (write %%%% for %%)", pattern);
        } else {
            place = s;
            n = number_place(s);
        }
    }
    if (place && strchr(place, '/'))
        return usage_error(&cmd_sample, "--output: '%s' has its number in the name of a folder", pattern);
    out->head = literal(pattern, place ? (size_t)(place - pattern) : strlen(pattern));
    if (place) {
        snprintf(out->digits, sizeof out->digits, "%.*s", (int)(n - 2), place + 1);
        out->tail = literal(place + n, strlen(place + n));
    }
    return out->head && (out->tail || !place) ? TOOL_OK : tool_no_memory(t);
}

/* Several images and no number's place: "-%03d" goes before the extension. */
static int insert_number(sample_output *out, tool *t)
{
    char *name = strrchr(out->head, '/'), *dot = strrchr(name ? name : out->head, '.');

    if (!dot || dot == out->head || dot[-1] == '/')
        dot = out->head + strlen(out->head);
    if (!(out->tail = strdup(dot)))
        return tool_no_memory(t);
    *dot = '\0';
    if (!(name = realloc(out->head, strlen(out->head) + 2)))
        return tool_no_memory(t);
    out->head = strcat(name, "-");
    strcpy(out->digits, "03");
    report_say(&t->report, ADDCL_LOG_INFO, "several images: they go to %s000%s and so on", out->head, out->tail);
    return TOOL_OK;
}

char *sample_output_name(const sample_output *out, int index)
{
    char number[128], *name;
    int width = atoi(out->digits);

    if (!out->tail)
        return strdup(out->head);
    snprintf(number, sizeof number, out->digits[0] == '0' ? "%0*d" : "%*d", width, index);
    return asprintf(&name, "%s%s%s", out->head, number, out->tail) < 0 ? NULL : name;
}

/* The folder of a target must be there and let files be made in it. */
static int check_folder(tool *t, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
    struct stat st;
    int code = TOOL_OK;

    if (!folder)
        return tool_no_memory(t);
    errno = 0;
    if (stat(folder, &st) == 0 && !S_ISDIR(st.st_mode))
        errno = ENOTDIR;
    if (errno || access(folder, W_OK | X_OK) != 0) {
        report_say(&t->report, ADDCL_LOG_ERROR, "--output: no file can be made in '%s': %s", folder, strerror(errno));
        code = TOOL_FAILED;
    }
    free(folder);
    return code;
}

/* A target must not be a folder. What stands there and is no plain file (a pipe, a device) is written to as it is. */
static int check_target(tool *t, const char *path)
{
    struct stat st;

    if (stat(path, &st) != 0 || S_ISREG(st.st_mode))
        return check_folder(t, path);
    if (S_ISDIR(st.st_mode))
        return usage_error(&cmd_sample, "--output: '%s' is a folder", path);
    if (access(path, W_OK) == 0)
        return TOOL_OK;
    report_say(&t->report, ADDCL_LOG_ERROR, "--output: '%s' cannot be written: %s", path, strerror(errno));
    return TOOL_FAILED;
}

static bool is_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* A folder, which is made when its name ends with a slash: the images are numbered in it. 0 or the exit code. */
static int open_folder(sample_output *out, tool *t, const char *path)
{
    if (!is_folder(path) && mkdir(path, 0777) != 0) {
        report_say(&t->report, ADDCL_LOG_ERROR, "--output: cannot make the folder '%s': %s", path, strerror(errno));
        return TOOL_FAILED;
    }
    if (asprintf(&out->head, "%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/") < 0)
        out->head = NULL;
    out->tail = strdup(".png");
    strcpy(out->digits, "05");
    return out->head && out->tail ? TOOL_OK : tool_no_memory(t);
}

int sample_output_open(sample_output *out, tool *t, const char *pattern, int n)
{
    int code = TOOL_OK;

    if (strcmp(pattern, "-") == 0) {
        out->to_stdout = true;
        if (n > 1)
            return usage_error(&cmd_sample, "--output: '-' takes one image, not %d (--grid puts them on one sheet)", n);
        if (isatty(STDOUT_FILENO))
            return usage_error(&cmd_sample, "--output: standard output is a terminal; send it to a file or a pipe");
        return (out->head = strdup(pattern)) ? TOOL_OK : tool_no_memory(t);
    }
    if (*pattern && (pattern[strlen(pattern) - 1] == '/' || is_folder(pattern)))
        code = open_folder(out, t, pattern);
    else
        code = split(out, t, pattern);
    if (code == TOOL_OK && n > 1 && !out->tail)
        code = insert_number(out, t);
    for (int i = 0; code == TOOL_OK && i < n; i++) {
        char *name = sample_output_name(out, i);
        code = name ? check_target(t, name) : tool_no_memory(t);
        free(name);
    }
    return code;
}
