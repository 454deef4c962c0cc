/* sample.h - the parts of add-cl sample: what the run is made from (sample_input.c), where it goes (sample_output.c).
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include "tool.h"

typedef struct sample_args {
    common_args common;
    const char *model, *unet, *vae, *text_encoder, *taesd, *prediction, *type;
    text_list loras; /* FILE[:WEIGHT] */
    text_list prompts;
    const char *prompt_file, *negative;
    int64_t steps; /* 0: the model's */
    double cfg_scale;
    int64_t width, height, seed;
    const char *rng, *sampler, *spacing;
    double eta;
    num_list timesteps, sigmas;
    const char *init;
    double strength;
    const char *output;
    int64_t batch_count, batch_size;
    int64_t grid; /* columns; 0: near square; -1: no grid */
    const char *tiling;
    int64_t tile_size;
    double tile_overlap;
    const char *from_image;
    bool no_metadata, list_devices, dry_run;
} sample_args;

/* What is read before the run. Zeroed by the caller, freed with sample_input_free. */
typedef struct sample_input {
    char **prompts; /* without <lora:...> */
    size_t n_prompts;
    addcl_lora *loras; /* their paths are those of lora_paths */
    char **lora_paths;
    size_t n_loras;
    json_t *recipe;    /* metadata of --from-image; strings of sample_args may point into it */
    addcl_image *init; /* of the size of the run */
} sample_input;

void sample_input_free(sample_input *in);
/* Takes what the command line leaves open from the metadata of --from-image. 0 or the exit code, as the functions
 * below. */
int sample_read_recipe(sample_input *in, tool *t, cmd_line *o, sample_args *a);
/* Collects the prompts of the command line and of --prompt-file; takes the <lora:NAME:WEIGHT> tags out of them. */
int sample_read_prompts(sample_input *in, tool *t, const sample_args *a);
/* Reads the image of --init-img and brings it to the size of the run, which becomes run->width and height. */
int sample_read_init(sample_input *in, tool *t, const sample_args *a, const addcl_model_info *m,
                     addcl_sample_opts *run);

/* Where the images go. Zeroed by the caller, freed with sample_output_free. */
typedef struct sample_output {
    char *head, *tail; /* of the file names, around the number; tail NULL: no number */
    char digits[8];    /* of the number: "3", "03" */
    bool to_stdout;
} sample_output;

void sample_output_free(sample_output *out);
/* Understands -o for n files and makes sure, before anything is computed, that they can be written. 0 or the exit code.
 */
int sample_output_open(sample_output *out, tool *t, const char *pattern, int n);
/* The name of file `index`, in new memory. NULL: memory is short. */
char *sample_output_name(const sample_output *out, int index);

#endif
