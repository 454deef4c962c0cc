/* cmd_devices.c - add-cl devices: lists OpenCL devices and tries them. */
#include "tool.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROBE_SECONDS 120 /* a driver's first kernel may take long to compile */

extern char **environ;

typedef struct devices_args {
    common_args common;
    bool check, json;
    const char *probe;
} devices_args;

#define ROW(...) OPT_ROW(devices_args, __VA_ARGS__)

static const opt_def rows[] = {
    ROW(OPT_FLAG, "check", 0, check, NULL, "run a small kernel on each usable device, in a process of its own"),
    ROW(OPT_FLAG, "json", 0, json, NULL, "print a JSON array"),
    ROW(OPT_TEXT, "probe", 0, probe, "P:D", "what --check runs for one device", HIDDEN),
    ROWS_REPORT(devices_args),
};

/* Outcome of --check for one device. */
typedef struct probe {
    bool ok;
    char message[512];
} probe;

/* Reads all that comes from fd within PROBE_SECONDS, keeping the first line; false when time ran out. */
static bool read_line(int fd, char *line, size_t size)
{
    double end = clock_now() + PROBE_SECONDS;
    char block[512];
    size_t n = 0;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        double left = end - clock_now();
        ssize_t got;
        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) == 0)
            return false;
        got = read(fd, block, sizeof block);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        for (ssize_t i = 0; i < got && n + 1 < size; i++)
            line[n++] = block[i];
    }
    line[n] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return true;
}

/* Starts this program anew for one device, its standard error going to a pipe: a driver may abort or hang (PoCL without
 * `ld` aborts), and OpenCL does not survive fork(). Returns 0 or an errno. */
static int start_probe(const char *device, pid_t *pid, int *err)
{
    char self[] = "/proc/self/exe", name[] = "add-cl", command[] = "devices", quiet[] = "-q", option[] = "--probe";
    char *spec = strdup(device), *argv[] = {name, command, quiet, option, spec, NULL};
    posix_spawn_file_actions_t actions;
    int fd[2], rc;

    if (!spec)
        return ENOMEM;
    if (pipe(fd) != 0) {
        rc = errno;
        free(spec);
        return rc;
    }
    rc = posix_spawn_file_actions_init(&actions);
    if (rc == 0) {
        rc = posix_spawn_file_actions_adddup2(&actions, fd[1], STDERR_FILENO);
        rc = rc ? rc : posix_spawn_file_actions_addclose(&actions, fd[0]);
        rc = rc ? rc : posix_spawn_file_actions_addclose(&actions, fd[1]);
        rc = rc ? rc : posix_spawn(pid, self, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(fd[1]);
    if (rc != 0)
        close(fd[0]);
    *err = fd[0];
    free(spec);
    return rc;
}

static void probe_device(const addcl_device *d, probe *p)
{
    char spec[32], line[400] = "";
    int fd = -1, status = 0, rc;
    bool in_time;
    pid_t pid;

    snprintf(spec, sizeof spec, "%d:%d", d->platform, d->index);
    if ((rc = start_probe(spec, &pid, &fd)) != 0) {
        snprintf(p->message, sizeof p->message, "cannot start a process: %s", strerror(rc));
        return;
    }
    in_time = read_line(fd, line, sizeof line);
    close(fd);
    if (!in_time)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    p->ok = in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!in_time)
        snprintf(p->message, sizeof p->message, "no answer within %d s", PROBE_SECONDS);
    else if (WIFSIGNALED(status))
        snprintf(p->message, sizeof p->message, "ended by signal %d (%s) %s", WTERMSIG(status),
                 strsignal(WTERMSIG(status)), line);
    else
        snprintf(p->message, sizeof p->message, "%s", line);
}

static void print_device(const addcl_device *d, const probe *p)
{
    char mem[16], max[16], local[16];

    printf("%d:%d  %s  %s", d->platform, d->index, d->type, d->name);
    if (d->usable)
        printf("%s\n", !p ? "" : p->ok ? "  works" : "  FAILS");
    else
        printf("  not usable: %s\n", d->why);
    if (p && !p->ok && d->usable)
        printf("      %s\n", p->message);
    printf("      %s, %s; %s, %s, driver %s\n", d->platform_name, d->platform_version, d->vendor, d->version,
           d->driver);
    printf("      memory %s, largest buffer %s, local %s; %u units, %u MHz, %u floats wide, work-groups up to %zu\n",
           text_bytes((double)d->global_mem, mem), text_bytes((double)d->max_alloc, max),
           text_bytes((double)d->local_mem, local), d->compute_units, d->clock_mhz, d->vector_width, d->max_work_group);
}

static json_t *device_json(const addcl_device *d, const probe *p)
{
    json_t *o =
        json_pack("{s:i, s:i, s:o*, s:o*, s:o*, s:o*, s:o*, s:o*, s:o*}", "platform", d->platform, "index", d->index,
                  "type", json_text(d->type), "name", json_text(d->name), "vendor", json_text(d->vendor), "driver",
                  json_text(d->driver), "version", json_text(d->version), "platform_name", json_text(d->platform_name),
                  "platform_version", json_text(d->platform_version));
    json_t *n = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:o*}", "global_mem", (json_int_t)d->global_mem,
                          "max_alloc", (json_int_t)d->max_alloc, "local_mem", (json_int_t)d->local_mem, "compute_units",
                          (json_int_t)d->compute_units, "clock_mhz", (json_int_t)d->clock_mhz, "vector_width",
                          (json_int_t)d->vector_width, "max_work_group", (json_int_t)d->max_work_group, "usable",
                          d->usable, "why", d->usable ? NULL : json_text(d->why));

    json_object_update(o, n);
    json_decref(n);
    if (p && d->usable) {
        json_object_set_new(o, "works", json_boolean(p->ok));
        if (!p->ok)
            json_object_set_new(o, "message", json_text(p->message));
    }
    return o;
}

int devices_print(tool *t, bool json, bool check)
{
    addcl_device *list = NULL;
    json_t *array = json ? json_array() : NULL;
    size_t n = 0, usable = 0, bad = 0;
    int rc = addcl_devices(t->ctx, &list, &n);

    if (rc < 0) {
        json_decref(array);
        return tool_fail(t, rc);
    }
    for (size_t i = 0; i < n; i++) {
        bool tried = check && list[i].usable;
        probe p = {0};
        if (tried)
            probe_device(&list[i], &p);
        usable += list[i].usable != 0;
        bad += tried && !p.ok;
        if (json)
            json_array_append_new(array, device_json(&list[i], tried ? &p : NULL));
        else
            print_device(&list[i], tried ? &p : NULL);
        if (tried)
            fflush(stdout); /* the next probe may take long; main() notices a failed write */
    }
    if (json)
        put_json(stdout, array);
    if (n == 0)
        tool_fail(t, ADDCL_E_NODEVICE);
    else if (usable == 0)
        report_say(&t->report, ADDCL_LOG_ERROR, "none of the %zu devices is usable", n);
    addcl_devices_free(list);
    return usable == 0 ? TOOL_NO_DEVICE : bad ? TOOL_FAILED : TOOL_OK;
}

/* The child's part of --check. */
static int probe_here(tool *t, const char *spec)
{
    int rc, code = tool_open_device(t, spec);

    if (code != TOOL_OK)
        return code;
    rc = addcl_probe_device(t->ctx);
    return rc < 0 ? tool_fail(t, rc) : TOOL_OK;
}

static int run(int argc, char **argv)
{
    devices_args a = {0};
    tool t = {0};
    cmd_line o;
    int code;

    if (opts_parse(&o, &cmd_devices, argc, argv, &a, &code)) {
        code = tool_open(&t, &a.common);
        if (code == TOOL_OK)
            code = a.probe ? probe_here(&t, a.probe) : devices_print(&t, a.json, a.check);
        tool_close(&t);
    }
    opts_free(&o);
    return code;
}

const cmd_def cmd_devices = {
    .name = "devices",
    .summary = "Lists the OpenCL devices",
    .usage = "[OPTION]...",
    .details =
        "P:D before a device is its name for --device. The exit code is 3 when no device is usable, and 1 when one "
        "fails under --check.",
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .run = run,
};
