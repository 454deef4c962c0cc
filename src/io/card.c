/* card.c - the model card of an exported model: Markdown behind a head of YAML, as model hubs read it. */
#include "io/report.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"

/* A string as JSON, which is also how YAML and Python write one. */
static void put_quoted(ac_str *s, const char *text)
{
    json_t *value = json_string(text);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;

    ac_str_add(s, quoted ? quoted : "\"\""); /* no UTF-8: it has no such form */
    free(quoted);
    json_decref(value);
}

/* A word of a shell's command line. */
static void put_shell(ac_str *s, const char *text)
{
    ac_str_add(s, "'");
    for (; *text; text++)
        ac_str_addn(s, *text == '\'' ? "'\\''" : text, *text == '\'' ? 4 : 1);
    ac_str_add(s, "'");
}

/* A paragraph below its heading. */
static void put_section(ac_str *s, const char *heading, const char *text)
{
    if (text && *text)
        ac_str_addf(s, "\n## %s\n\n%s\n", heading, text);
}

static void put_front_matter(ac_str *s, const ac_card *c)
{
    ac_str_add(s, "---\nlibrary_name: diffusers\n");
    if (c->steps)
        ac_str_add(s, "pipeline_tag: text-to-image\n");
    if (c->license && *c->license) {
        ac_str_add(s, "license: ");
        put_quoted(s, c->license);
        ac_str_add(s, "\n");
    }
    if (c->base && *c->base) {
        ac_str_add(s, "base_model: ");
        put_quoted(s, c->base);
        ac_str_add(s, "\n");
    }
    ac_str_add(s, "tags: [add-cl]\n");
    if (c->steps)
        ac_str_addf(s, "add_cl.steps: %d\nadd_cl.cfg_scale: %g\n", c->steps, c->guidance);
    ac_str_add(s, "---\n");
}

/* How to make a picture, in this folder. */
static void put_usage(ac_str *s, const ac_card *c)
{
    if (!c->prompt)
        return;
    ac_str_add(s, "\n## Use\n\nWith add-cl, in this folder:\n\n```sh\nadd-cl sample -m . -p ");
    put_shell(s, c->prompt);
    ac_str_addf(s, " --steps %d --cfg-scale %g -W %d -H %d -o out.png\n```\n", c->steps, c->guidance, c->width,
                c->height);
    ac_str_add(s, "\nWith diffusers:\n\n```python\nfrom diffusers import StableDiffusionPipeline\n\n"
                  "pipe = StableDiffusionPipeline.from_pretrained(\".\", safety_checker=None)\nimage = pipe(");
    put_quoted(s, c->prompt);
    ac_str_addf(s, ", num_inference_steps=%d, guidance_scale=%g,\n             width=%d, height=%d).images[0]\n",
                c->steps, c->guidance, c->width, c->height);
    ac_str_add(s, "image.save(\"out.png\")\n```\n");
}

/* Text in a cell of a table. */
static void put_cell(ac_str *s, const char *text)
{
    for (; *text; text++)
        if (*text == '|')
            ac_str_add(s, "\\|");
        else
            ac_str_addn(s, *text == '\n' ? " " : text, 1);
}

static void put_training(ac_str *s, const ac_card *c)
{
    if (c->n_figures == 0 && !(c->config && *c->config))
        return;
    ac_str_add(s, "\n## Training\n");
    if (c->base && *c->base)
        ac_str_addf(s, "\nStarted from %s.\n", c->base);
    if (c->n_figures > 0)
        ac_str_add(s, "\n| | |\n| --- | --- |\n");
    for (size_t i = 0; i < c->n_figures; i++) {
        ac_str_add(s, "| ");
        put_cell(s, c->figure[i][0]);
        ac_str_add(s, " | ");
        put_cell(s, c->figure[i][1]);
        ac_str_add(s, " |\n");
    }
    if (c->config && *c->config)
        ac_str_addf(s, "\n<details><summary>Configuration</summary>\n\n````ini\n%s%s````\n\n</details>\n", c->config,
                    c->config[strlen(c->config) - 1] == '\n' ? "" : "\n");
}

int ac_card_write(const char *dir, const ac_card *c, ac_diag *dg)
{
    char *path = ac_path_join(dir, "README.md");
    ac_str s = {0};
    int rc;

    put_front_matter(&s, c);
    ac_str_addf(&s, "\n# %s\n", c->name);
    if (c->summary && *c->summary)
        ac_str_addf(&s, "\n%s\n", c->summary);
    if (c->grid && *c->grid)
        ac_str_addf(&s, "\n![%s](%s)\n", c->shows ? c->shows : "samples", c->grid);
    put_usage(&s, c);
    put_section(&s, "Data", c->data);
    put_training(&s, c);
    put_section(&s, "Licences", c->licenses);
    ac_str_add(&s, "\nTrained with add-cl; the folder has the layout and the tensor names of diffusers.\n");
    rc = path && !s.failed ? ac_file_save(path, s.p, s.n, dg) : ac_nomem(dg, s.n);
    ac_str_free(&s);
    free(path);
    return rc;
}
