/* tfevents.c - TensorBoard event files. */
#include "io/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/crc32c.h"

struct ac_tfevents {
    char *path;
    int fd;
    off_t size; /* of what was written whole */
};

/* --------------------------------------------------------------------------------------- protobuf's wire format */

/* Fields of the messages written here. */
enum { EVENT_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION = 7 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SCALAR = 2, VALUE_IMAGE = 4 };
enum { IMAGE_HEIGHT = 1, IMAGE_WIDTH = 2, IMAGE_COLORSPACE = 3, IMAGE_DATA = 4 };
enum { SESSION_STATUS = 1, SESSION_START = 1 };

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* wire types */

static void put_varint(ac_str *s, uint64_t x)
{
    char b;

    for (; x > 127; x >>= 7) {
        b = (char)(x | 128);
        ac_str_addn(s, &b, 1);
    }
    b = (char)x;
    ac_str_addn(s, &b, 1);
}

static void put_key(ac_str *s, unsigned field, unsigned wire)
{
    put_varint(s, field << 3 | wire);
}

/* n bytes of x, little-endian. */
static void put_fixed(ac_str *s, uint64_t x, int n)
{
    for (int i = 0; i < n; i++) {
        char b = (char)(x >> 8 * i);
        ac_str_addn(s, &b, 1);
    }
}

static void put_int(ac_str *s, unsigned field, int64_t x)
{
    put_key(s, field, VARINT);
    put_varint(s, (uint64_t)x);
}

static void put_double(ac_str *s, unsigned field, double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    put_key(s, field, FIXED64);
    put_fixed(s, bits, 8);
}

static void put_float(ac_str *s, unsigned field, float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    put_key(s, field, FIXED32);
    put_fixed(s, bits, 4);
}

static void put_bytes(ac_str *s, unsigned field, const void *data, size_t n)
{
    put_key(s, field, BYTES);
    put_varint(s, n);
    ac_str_addn(s, data, n);
}

static void put_text(ac_str *s, unsigned field, const char *text)
{
    put_bytes(s, field, text, strlen(text));
}

/* A message in a message. */
static void put_message(ac_str *s, unsigned field, const ac_str *m)
{
    s->failed |= m->failed;
    put_bytes(s, field, m->p, m->n);
}

/* ---------------------------------------------------------------------------------------------------------- files */

static int write_fail(const ac_tfevents *t, ac_diag *dg)
{
    return ac_fail(dg, ADDCL_E_IO, "cannot write '%s': %s", t->path, strerror(errno));
}

/* CRC-32C as TFRecords hold it: rotated and shifted, so that a checksum of data that hold checksums stays a good one.
 */
static uint32_t masked_crc(const void *data, size_t n)
{
    uint32_t c = ac_crc32c(0, data, n);
    return (c >> 15 | c << 17) + 0xa282ead8;
}

/* Adds a record; one that does not fit leaves no part of itself behind. */
static int write_record(ac_tfevents *t, const ac_str *event, ac_diag *dg)
{
    ac_str r = {0};
    size_t done = 0;
    int rc = 0;

    if (event->failed)
        return ac_nomem(dg, event->n);
    put_fixed(&r, event->n, 8);
    put_fixed(&r, r.failed ? 0 : masked_crc(r.p, 8), 4);
    ac_str_addn(&r, event->p, event->n);
    put_fixed(&r, masked_crc(event->p, event->n), 4);
    if (r.failed)
        rc = ac_nomem(dg, event->n);
    while (rc == 0 && done < r.n) {
        ssize_t n = write(t->fd, r.p + done, r.n - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno != EINTR)
            rc = write_fail(t, dg);
    }
    if (rc == 0)
        t->size += (off_t)r.n;
    else if (ftruncate(t->fd, t->size) == 0)
        (void)lseek(t->fd, t->size, SEEK_SET);
    ac_str_free(&r);
    return rc;
}

static void begin_event(ac_str *e, int64_t step)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    put_double(e, EVENT_TIME, (double)t.tv_sec + (double)t.tv_nsec * 1e-9);
    put_int(e, EVENT_STEP, step);
}

/* The events that every file begins with; the second tells of a training that goes on from an earlier step. */
static int write_head(ac_tfevents *t, int64_t step, ac_diag *dg)
{
    ac_str e = {0}, session = {0};
    int rc;

    begin_event(&e, 0);
    put_text(&e, EVENT_VERSION, "brain.Event:2");
    rc = write_record(t, &e, dg);
    if (rc == 0 && step >= 0) {
        e.n = 0;
        begin_event(&e, step);
        put_int(&session, SESSION_STATUS, SESSION_START);
        put_message(&e, EVENT_SESSION, &session);
        rc = write_record(t, &e, dg);
    }
    ac_str_free(&session);
    ac_str_free(&e);
    return rc;
}

/* TensorBoard reads all files of a folder in the order of their names; those of one second are told apart by their
 * number. */
static int create(ac_tfevents *t, const char *dir, ac_diag *dg)
{
    char host[64] = "";

    (void)gethostname(host, sizeof host - 1);
    for (int i = 0; i < 1000 && t->fd < 0; i++) {
        free(t->path);
        t->path = ac_printf("%s/events.out.tfevents.%010" PRId64 ".%s.%ld.%d", dir, (int64_t)time(NULL),
                            *host ? host : "host", (long)getpid(), i);
        if (!t->path)
            return ac_nomem(dg, strlen(dir) + sizeof host);
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (t->fd < 0 && errno != EEXIST)
            break;
    }
    return t->fd < 0 ? write_fail(t, dg) : 0;
}

int ac_tfevents_open(const char *dir, int64_t step, ac_diag *dg, ac_tfevents **out)
{
    ac_tfevents *t = ac_calloc(1, sizeof *t);
    int rc;

    *out = NULL;
    if (!t)
        return ac_nomem(dg, sizeof *t);
    t->fd = -1;
    AC_TRY(create(t, dir, dg));
    AC_TRY(write_head(t, step, dg));
    *out = t;
    return 0;
out:
    ac_tfevents_close(t);
    return rc;
}

void ac_tfevents_close(ac_tfevents *t)
{
    if (!t)
        return;
    if (t->fd >= 0)
        close(t->fd);
    free(t->path);
    free(t);
}

/* --------------------------------------------------------------------------------------------------------- events */

int ac_tfevents_scalars(ac_tfevents *t, int64_t step, const char *const *tag, const double *value, size_t n,
                        ac_diag *dg)
{
    ac_str e = {0}, summary = {0}, v = {0};
    int rc = 0;

    for (size_t i = 0; i < n; i++) {
        if (isnan(value[i]))
            continue;
        v.n = 0;
        put_text(&v, VALUE_TAG, tag[i]);
        put_float(&v, VALUE_SCALAR, (float)value[i]);
        put_message(&summary, SUMMARY_VALUE, &v);
    }
    if (summary.n > 0 || summary.failed) {
        begin_event(&e, step);
        put_message(&e, EVENT_SUMMARY, &summary);
        rc = write_record(t, &e, dg);
    }
    ac_str_free(&v);
    ac_str_free(&summary);
    ac_str_free(&e);
    return rc;
}

/* Four bytes of a PNG's header, big-endian. */
static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int ac_tfevents_png(ac_tfevents *t, int64_t step, const char *tag, const void *png, size_t n, ac_diag *dg)
{
    static const uint8_t head[16] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"; /* then width and height, 4 bytes each */
    const uint8_t *p = png;
    ac_str e = {0}, summary = {0}, v = {0}, image = {0};
    int rc;

    if (n < 24 || memcmp(p, head, sizeof head) != 0)
        return ac_fail(dg, ADDCL_E_FORMAT, "picture '%s' of step %" PRId64 " is no PNG", tag, step);
    put_int(&image, IMAGE_HEIGHT, big_endian(p + 20));
    put_int(&image, IMAGE_WIDTH, big_endian(p + 16));
    put_int(&image, IMAGE_COLORSPACE, 3); /* RGB */
    put_bytes(&image, IMAGE_DATA, png, n);
    put_text(&v, VALUE_TAG, tag);
    put_message(&v, VALUE_IMAGE, &image);
    put_message(&summary, SUMMARY_VALUE, &v);
    begin_event(&e, step);
    put_message(&e, EVENT_SUMMARY, &summary);
    rc = write_record(t, &e, dg);
    ac_str_free(&image);
    ac_str_free(&v);
    ac_str_free(&summary);
    ac_str_free(&e);
    return rc;
}
