/* dataset_image.c - one showing of a sample: its file, decoded, scaled, cropped, mirrored, and its caption. */
#include "io/dataset_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "base/sha256.h"
#include "io/image.h"

#define PIXELS_MAX ((size_t)1 << 26) /* of a picture before scaling: a small file can claim any number */
#define FILE_MAX   ((uint64_t)256 << 20)

/* ------------------------------------------------------------------------------------------------------- files */

/* The item's file in new memory. `path` is of the file itself or of its shard. */
static int read_open(int fd, const ac_data_item *item, bool shard, const char *path, ac_diag *dg, ac_str *out)
{
    struct stat st;
    uint64_t size;

    if (fstat(fd, &st) != 0)
        return ac_fail(dg, ADDCL_E_IO, "cannot read '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return ac_fail(dg, ADDCL_E_FORMAT, "'%s' is no regular file", path);
    size = shard ? item->bytes : (uint64_t)st.st_size;
    if (size > FILE_MAX)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: picture file of %ju bytes: expected at most %ju", path,
                       (uintmax_t)size, (uintmax_t)FILE_MAX);
    if (!AC_RESERVE(out, (size_t)size + 1))
        return ac_nomem(dg, (size_t)size + 1);
    while (out->n < size) {
        ssize_t r = pread(fd, out->p + out->n, (size_t)size - out->n, (off_t)(item->at + out->n));
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return ac_fail(dg, ADDCL_E_IO, "cannot read '%s': %s", path, r < 0 ? strerror(errno) : "it became shorter");
        out->n += (size_t)r;
    }
    return 0;
}

/* The bytes of an item's file. O_NONBLOCK: a pipe must not hang. */
static int read_file(const ac_data *d, const ac_data_item *item, ac_diag *dg, ac_str *out)
{
    const ac_data_root *root = &d->root.p[item->root];
    char *path = root->shard ? ac_strdup(root->path) : ac_path_join(root->path, d->text.p + item->name);
    int fd, rc;

    if (!path)
        return ac_nomem(dg, strlen(root->path));
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        rc = ac_fail(dg, errno == EMFILE || errno == ENFILE ? ADDCL_E_INTERNAL : ADDCL_E_IO, "cannot open '%s': %s",
                     path, strerror(errno));
    else
        rc = read_open(fd, item, root->shard, path, dg, out);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

/* ----------------------------------------------------------------------------------------------------- scaling */

/* round(a * b / c) for positive numbers. */
static int scaled(int a, int b, int c)
{
    return (int)(((int64_t)a * b * 2 + c) / (2 * (int64_t)c));
}

/* Size in pixels that `fit` scales a picture of w x h to. */
static void target_size(ac_fit fit, int side, int w, int h, int size[2])
{
    bool wide = w > h;

    size[0] = size[1] = side;
    if (fit == AC_FIT_PAD)
        size[wide] = AC_MAX(wide ? scaled(h, side, w) : scaled(w, side, h), 1);
    else if (fit != AC_FIT_STRETCH)
        size[!wide] = wide ? scaled(w, side, h) : scaled(h, side, w);
}

/* The picture in the middle of a square of the background. */
static addcl_image *pad(const addcl_image *in, int side, const uint8_t background[3])
{
    addcl_image *out = ac_image_new(side, side);
    size_t left = (size_t)(side - in->width) / 2, top = (size_t)(side - in->height) / 2, n = (size_t)side;

    for (size_t i = 0; out && i < n * n; i++)
        memcpy(out->rgb + i * 3, background, 3);
    for (size_t y = 0; out && y < (size_t)in->height; y++)
        memcpy(out->rgb + ((top + y) * n + left) * 3, in->rgb + y * (size_t)in->width * 3, (size_t)in->width * 3);
    return out;
}

/* Replaces *image by the scaled picture, from which views are cut. */
static int fit_image(const ac_data *d, const char *name, ac_diag *dg, addcl_image **image)
{
    int side = d->opts.resolution, size[2], rc;
    addcl_image *out;

    target_size(d->opts.fit, side, (*image)->width, (*image)->height, size);
    if (size[0] > AC_IMAGE_SIDE_MAX || size[1] > AC_IMAGE_SIDE_MAX)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED, "%s: picture of %d x %d pixels is too narrow to be scaled to %d x %d",
                       name, (*image)->width, (*image)->height, size[0], size[1]);
    if (size[0] != (*image)->width || size[1] != (*image)->height) {
        rc = ac_image_scale(*image, size[0], size[1], dg, &out);
        if (rc < 0)
            return rc;
        ac_image_free(*image);
        *image = out;
    }
    if (size[0] < side || size[1] < side) {
        if (!(out = pad(*image, side, d->opts.background)))
            return ac_nomem(dg, (size_t)side * (size_t)side * 3);
        ac_image_free(*image);
        *image = out;
    }
    return 0;
}

/* ----------------------------------------------------------------------------------------------------- loading */

/* What ac_data_fetch holds of a picture. */
typedef struct picture {
    ac_data_slot info;        /* a copy */
    const addcl_image *image; /* NULL: not wanted */
    addcl_image *own;         /* image, where the slot does not keep it */
} picture;

/* Reads, hashes and decodes. */
static int decode(const ac_data *d, uint32_t index, ac_diag *dg, uint8_t hash[32], addcl_image **out)
{
    const ac_image_opts how = {.background = {d->opts.background[0], d->opts.background[1], d->opts.background[2]},
                               .orient = true,
                               .max_pixels = PIXELS_MAX};
    const ac_data_item *item = &d->item.p[index];
    ac_sha256 sha;
    ac_str file = {0};
    int rc;

    AC_TRY(read_file(d, item, dg, &file));
    ac_sha256_init(&sha);
    ac_sha256_update(&sha, file.p, file.n);
    ac_sha256_final(&sha, hash);
    rc = ac_image_decode(file.p, file.n, d->text.p + item->name, &how, dg, out);
out:
    ac_str_free(&file);
    return rc;
}

int ac_data_native(const ac_data *d, uint32_t index, ac_diag *dg, int *side)
{
    addcl_image *image = NULL;
    uint8_t hash[32];
    int rc = decode(d, index, dg, hash, &image);

    if (rc == 0)
        *side = AC_MIN(image->width, image->height);
    ac_image_free(image);
    return rc;
}

/* And scales. */
static int load(const ac_data *d, uint32_t index, ac_diag *dg, picture *p)
{
    int rc;

    AC_TRY(decode(d, index, dg, p->info.hash, &p->own));
    AC_TRY(fit_image(d, d->text.p + d->item.p[index].name, dg, &p->own));
    p->info.state = AC_SLOT_GOOD;
    p->info.width = p->own->width;
    p->info.height = p->own->height;
    p->image = p->own;
out:
    return rc;
}

bool ac_data_is_broken(int rc)
{
    return rc == ADDCL_E_FORMAT || rc == ADDCL_E_IO || rc == ADDCL_E_UNSUPPORTED;
}

/* Notes down what a load has given; another thread may have loaded the same picture meanwhile. */
static void remember(ac_data *d, uint32_t index, int rc, const char *message, picture *p)
{
    ac_data_slot *slot = &d->slot[index];
    size_t bytes = (size_t)p->info.width * (size_t)p->info.height * 3;

    pthread_mutex_lock(&d->lock);
    if (slot->state == AC_SLOT_UNKNOWN && rc == 0) {
        *slot = p->info;
    } else if (slot->state == AC_SLOT_UNKNOWN) {
        *slot = (ac_data_slot){.state = AC_SLOT_BROKEN, .code = rc};
        if (d->n_broken < AC_DATA_BROKEN_KEPT)
            d->broken[d->n_broken] = ac_strdup(message);
        d->n_broken++;
    }
    if (rc == 0 && !slot->kept && bytes <= d->opts.cache_bytes - d->kept_bytes) {
        slot->kept = p->own;
        d->kept_bytes += bytes;
        p->own = NULL;
    }
    pthread_mutex_unlock(&d->lock);
}

static int find_picture(ac_data *d, uint32_t index, bool with_pixels, ac_diag *dg, picture *p)
{
    ac_diag why = {0};
    int rc;

    pthread_mutex_lock(&d->lock);
    p->info = d->slot[index];
    pthread_mutex_unlock(&d->lock);
    if (p->info.state == AC_SLOT_BROKEN)
        return ac_fail(dg, p->info.code, "%s: broken, as met before", ac_data_name(d, index));
    p->image = p->info.kept;
    if (p->info.state == AC_SLOT_GOOD && (p->image || !with_pixels))
        return 0;
    rc = load(d, index, &why, p);
    if (rc == 0 || ac_data_is_broken(rc))
        remember(d, index, rc, why.msg, p);
    return rc == 0 ? 0 : ac_fail(dg, rc, "%s", why.msg);
}

size_t ac_data_broken(ac_data *d, size_t i, char *msg, size_t n)
{
    size_t count;

    pthread_mutex_lock(&d->lock);
    count = d->n_broken;
    if (n > 0)
        snprintf(msg, n, "%s", i < AC_MIN(count, AC_DATA_BROKEN_KEPT) && d->broken[i] ? d->broken[i] : "");
    pthread_mutex_unlock(&d->lock);
    return count;
}

void ac_data_note_broken(ac_data *d, ac_diag *dg)
{
    size_t first, end;

    pthread_mutex_lock(&d->lock);
    first = d->n_noted;
    end = d->n_noted = d->n_broken;
    pthread_mutex_unlock(&d->lock);
    for (size_t i = first; i < AC_MIN(end, AC_DATA_BROKEN_KEPT); i++) /* these messages do not change any more */
        if (d->broken[i])
            ac_note(dg, ADDCL_LOG_WARN, "picture skipped: %s", d->broken[i]);
    if (end > AC_DATA_BROKEN_KEPT && end > first)
        ac_note(dg, ADDCL_LOG_WARN, "%zu pictures skipped so far", end);
}

/* ------------------------------------------------------------------------------------------------------- views */

static ac_view draw_view(const ac_data *d, uint32_t index, uint64_t epoch, const picture *p)
{
    int room_x = p->info.width - d->opts.resolution, room_y = p->info.height - d->opts.resolution;
    uint64_t random = ac_data_stream(d->opts.seed, epoch, index, AC_USE_VIEW);
    ac_view v = {.x = room_x / 2, .y = room_y / 2};

    if (epoch == AC_EPOCH_PLAIN)
        return v;
    v.flip = ac_data_uniform(&random) < d->opts.flip;
    if (d->opts.fit == AC_FIT_RANDOM_CROP) {
        v.x = (int)ac_data_below(&random, (size_t)room_x + 1);
        v.y = (int)ac_data_below(&random, (size_t)room_y + 1);
    }
    return v;
}

/* The view as floats: 0..255 -> -1..1, both ends exact. */
static void show(const addcl_image *in, const ac_view *v, size_t side, float *out)
{
    for (size_t y = 0; y < side; y++) {
        const uint8_t *row = in->rgb + ((y + (size_t)v->y) * (size_t)in->width + (size_t)v->x) * 3;
        for (size_t x = 0; x < side; x++, out += 3) {
            const uint8_t *pixel = row + (v->flip ? side - 1 - x : x) * 3;
            for (int c = 0; c < 3; c++)
                out[c] = (float)pixel[c] / 127.5f - 1;
        }
    }
}

static int draw_caption(const ac_data *d, uint32_t index, uint64_t epoch, ac_diag *dg, char **out)
{
    uint64_t random = ac_data_stream(d->opts.seed, epoch, index, AC_USE_CAPTION);
    bool dropped = ac_data_uniform(&random) < d->opts.caption_dropout && epoch != AC_EPOCH_PLAIN;

    if (!dropped)
        return ac_caption_draw(&d->caption, d->text.p + d->item.p[index].fields, &random, dg, out);
    *out = ac_strdup("");
    return *out ? 0 : ac_nomem(dg, 1);
}

int ac_data_fetch(ac_data *d, uint32_t index, uint64_t epoch, ac_diag *dg, float *image, ac_sample *out)
{
    picture p = {0};
    int rc;

    *out = (ac_sample){.index = index, .epoch = epoch, .name = ac_data_name(d, index)};
    AC_TRY(find_picture(d, index, image != NULL, dg, &p));
    AC_TRY(draw_caption(d, index, epoch, dg, &out->caption));
    memcpy(out->hash, p.info.hash, sizeof out->hash);
    out->view = draw_view(d, index, epoch, &p);
    if (image)
        show(p.image, &out->view, (size_t)d->opts.resolution, image);
out:
    ac_image_free(p.own);
    return rc;
}

void ac_data_view_key(const ac_data *d, const ac_view *view, char key[96])
{
    static const char *const fit[] = {"crop", "crop", "pad", "stretch"};
    const uint8_t *b = d->opts.background;

    snprintf(key, 96, "%d %s %d,%d %s #%02x%02x%02x", d->opts.resolution, fit[d->opts.fit], view->x, view->y,
             view->flip ? "mirrored" : "straight", b[0], b[1], b[2]);
}
