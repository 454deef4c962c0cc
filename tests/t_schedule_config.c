/* t_schedule_config.c - scheduler_config.json: classes, keys, notes, and files that are not what they should be. */
#include "support.h"
#include "diff/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct notes {
    int n, level;
    char last[512];
} notes;

static void take_note(void *user, int level, const char *line)
{
    notes *t = user;
    t->n++;
    t->level = level;
    snprintf(t->last, sizeof t->last, "%s", line);
}

/* Parses a configuration written with ' for ". */
static int parse(const char *text, ac_diag *dg, ac_schedule **out)
{
    char buf[1024];
    ac_json j = {.path = "scheduler_config.json", .dg = dg};
    int rc;

    snprintf(buf, sizeof buf, "%s", text);
    for (char *p = buf; *p; p++)
        if (*p == '\'')
            *p = '"';
    j.obj = json_loads(buf, 0, NULL);
    assert_non_null(j.obj);
    rc = ac_schedule_parse(&j, out);
    json_decref(j.obj);
    return rc;
}

static void classes(void **state)
{
    static const struct {
        const char *name;
        ac_sampler_kind sampler;
        ac_spacing spacing;
        int notes;
        double abar0;
    } known[] = {
        {"EulerDiscreteScheduler", AC_EULER, AC_LINSPACE, 0, 0.9999},
        {"EulerAncestralDiscreteScheduler", AC_EULER_A, AC_LINSPACE, 0, 0.9999},
        {"DDIMScheduler", AC_DDIM, AC_LEADING, 0, 0.9999},
        {"LCMScheduler", AC_LCM, AC_LEADING, 0, 0.99915},
        {"DPMSolverMultistepScheduler", AC_DPMPP_2M, AC_LINSPACE, 0, 0.9999},
        {"PNDMScheduler", AC_EULER, AC_LEADING, 1, 0.9999},
        {"HeunDiscreteScheduler", AC_EULER, AC_LINSPACE, 1, 0.99915},
        {"UniPCMultistepScheduler", AC_EULER, AC_LINSPACE, 1, 0.9999},
        {"NobodysScheduler", AC_EULER, AC_LINSPACE, 1, 0.9999},
    };

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        notes seen = {0};
        ac_diag dg = {.note = take_note, .user = &seen};
        ac_schedule *sch;
        char text[128];
        snprintf(text, sizeof text, "{'_class_name': '%s'}", known[i].name);
        assert_int_equal(parse(text, &dg, &sch), 0);
        assert_int_equal(sch->cfg.sampler, known[i].sampler);
        assert_int_equal(sch->cfg.spacing, known[i].spacing);
        assert_true(fabs(sch->abar[0] - known[i].abar0) < 1e-9);
        assert_int_equal(seen.n, known[i].notes);
        if (seen.n)
            assert_true(seen.level == ADDCL_LOG_INFO && strstr(seen.last, known[i].name));
        ac_schedule_free(sch);
    }
}

/* Keys arrive where they should: a PNDM file as Stable Diffusion 1 has it, and a table of betas. */
static void keys(void **state)
{
    ac_diag dg = {0};
    ac_schedule *sch, *sd;
    ac_schedule_cfg cfg = ac_schedule_sd(false);

    (void)state;
    assert_int_equal(ac_schedule_new(&cfg, &dg, &sd), 0);
    assert_int_equal(
        parse("{'_class_name': 'PNDMScheduler', 'beta_start': 0.00085, 'beta_end': 0.012, 'beta_schedule': "
              "'scaled_linear', 'num_train_timesteps': 1000, 'set_alpha_to_one': false, 'skip_prk_steps': true, "
              "'steps_offset': 1, 'trained_betas': null, 'clip_sample': false, '_diffusers_version': '0.6.0'}",
              &dg, &sch),
        0);
    assert_memory_equal(sch->abar, sd->abar, 1000 * sizeof *sd->abar);
    assert_true(sch->cfg.steps_offset == 1 && !sch->cfg.alpha_to_one && sch->cfg.prediction == AC_PREDICT_EPS);
    ac_schedule_free(sch);
    ac_schedule_free(sd);
    assert_int_equal(parse("{'_class_name': 'DPMSolverMultistepScheduler', 'trained_betas': [0.1, 0.2, 0.5], "
                           "'num_train_timesteps': 3, 'prediction_type': 'v_prediction', 'use_karras_sigmas': true, "
                           "'timestep_spacing': 'trailing', 'lambda_min_clipped': -1e300, 'solver_order': 2}",
                           &dg, &sch),
                     0);
    assert_true(fabs(sch->abar[2] - 0.9 * 0.8 * 0.5) < 1e-12);
    assert_true(sch->cfg.karras && sch->cfg.spacing == AC_TRAILING && sch->cfg.prediction == AC_PREDICT_V);
    ac_schedule_free(sch);
}

static void config_errors(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *say;
    } bad[] = {
        {"{'_class_name': 'FlowMatchEulerDiscreteScheduler'}", ADDCL_E_UNSUPPORTED, "do not come from betas"},
        {"{'_class_name': 7}", ADDCL_E_FORMAT, "_class_name"},
        {"{'beta_schedule': 'sigmoid'}", ADDCL_E_UNSUPPORTED, "beta_schedule \"sigmoid\""},
        {"{'prediction_type': 'flow_prediction'}", ADDCL_E_UNSUPPORTED, "prediction_type"},
        {"{'timestep_spacing': 'karras'}", ADDCL_E_UNSUPPORTED, "timestep_spacing"},
        {"{'final_sigmas_type': 0}", ADDCL_E_FORMAT, "final_sigmas_type"},
        {"{'use_flow_sigmas': true}", ADDCL_E_UNSUPPORTED, "use_flow_sigmas"},
        {"{'thresholding': true}", ADDCL_E_UNSUPPORTED, "thresholding"},
        {"{'timestep_type': 'continuous'}", ADDCL_E_UNSUPPORTED, "timestep_type"},
        {"{'beta_start': 'small'}", ADDCL_E_FORMAT, "beta_start"},
        {"{'beta_start': -1}", ADDCL_E_FORMAT, "beta of time step 0"},
        {"{'beta_end': 2, 'num_train_timesteps': 10}", ADDCL_E_FORMAT, "beta of time step 5"},
        {"{'beta_start': 0.5, 'beta_end': 0.9}", ADDCL_E_FORMAT, "alpha^2 of time step"},
        {"{'num_train_timesteps': 0}", ADDCL_E_FORMAT, "num_train_timesteps"},
        {"{'num_train_timesteps': 2000000000}", ADDCL_E_FORMAT, "num_train_timesteps"},
        {"{'num_train_timesteps': 1, 'rescale_betas_zero_snr': true}", ADDCL_E_FORMAT, "at least 2 time steps"},
        {"{'steps_offset': 5000}", ADDCL_E_FORMAT, "steps_offset"},
        {"{'trained_betas': [0.1]}", ADDCL_E_FORMAT, "trained_betas"},
        {"{'trained_betas': 'x'}", ADDCL_E_FORMAT, "trained_betas"},
        {"{'trained_betas': [0.1, 'x'], 'num_train_timesteps': 2}", ADDCL_E_FORMAT, "beta of time step 1"},
        {"{'original_inference_steps': 0}", ADDCL_E_FORMAT, "original_inference_steps"},
        {"{'clip_sample': 1}", ADDCL_E_FORMAT, "clip_sample"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'solver_order': 9}", ADDCL_E_FORMAT, "solver_order"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ac_diag dg = {0};
        ac_schedule *sch;
        if (parse(bad[i].text, &dg, &sch) != bad[i].code)
            fail_msg("%s: \"%s\", expected %s", bad[i].text, dg.msg, bad[i].say);
        assert_null(sch);
        if (!strstr(dg.msg, bad[i].say) || !strstr(dg.msg, "scheduler_config.json"))
            fail_msg("\"%s\" does not say \"%s\"", dg.msg, bad[i].say);
    }
}

/* Settings that are passed over are told, each in one line; the same settings at their usual values are not. */
static void ignored_settings(void **state)
{
    static const struct {
        const char *text, *say; /* say NULL: no note */
    } set[] = {
        {"{'_class_name': 'DDIMScheduler', 'clip_sample': true}", "clip_sample"},
        {"{'_class_name': 'EulerDiscreteScheduler', 'interpolation_type': 'log_linear'}", "interpolation_type"},
        {"{'_class_name': 'EulerDiscreteScheduler', 'sigma_max': 80.0}", "sigma_max"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'final_sigmas_type': 'sigma_min'}", "final_sigmas_type"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'lambda_min_clipped': -5.1}", "lambda_min_clipped"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'algorithm_type': 'sde-dpmsolver++'}", "sde-dpmsolver++"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'solver_type': 'heun'}", "heun"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'solver_order': 3}", "order 3"},
        {"{'_class_name': 'DPMSolverMultistepScheduler', 'solver_order': 2, 'final_sigmas_type': 'zero', 'sigma_max': "
         "null, "
         "'algorithm_type': 'dpmsolver++', 'solver_type': 'midpoint', 'use_lu_lambdas': false}",
         NULL},
        {"{'_class_name': 'EulerDiscreteScheduler', 'solver_order': 3}", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        notes seen = {0};
        ac_diag dg = {.note = take_note, .user = &seen};
        ac_schedule *sch;
        assert_int_equal(parse(set[i].text, &dg, &sch), 0);
        assert_int_equal(seen.n, set[i].say ? 1 : 0);
        if (set[i].say && !strstr(seen.last, set[i].say))
            fail_msg("\"%s\" does not say \"%s\"", seen.last, set[i].say);
        ac_schedule_free(sch);
    }
}

static void names(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(ac_sampler_by_name(ac_sampler_name((ac_sampler_kind)i)), i);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ac_spacing_by_name(ac_spacing_name((ac_spacing)i)), i);
        assert_int_equal(ac_prediction_by_name(ac_prediction_name((ac_prediction)i)), i);
    }
    assert_int_equal(ac_prediction_by_name("eps"), AC_PREDICT_EPS);
    assert_int_equal(ac_prediction_by_name("v"), AC_PREDICT_V);
    assert_int_equal(ac_sampler_by_name("dpm"), -1);
}

/* Each allocation may fail: a code, a message, no leak. */
static void no_memory(void **state)
{
    static const char text[] = "{'_class_name': 'EulerDiscreteScheduler', 'trained_betas': [0.1, 0.2], "
                               "'num_train_timesteps': 2}";
    ac_schedule *sch;

    (void)state;
    for (unsigned long n = 1; n <= 2; n++) {
        ac_diag dg = {0};
        ac_alloc_fail_at(n);
        assert_int_equal(parse(text, &dg, &sch), ADDCL_E_NOMEM);
        assert_non_null(strstr(dg.msg, "out of memory"));
    }
    ac_alloc_fail_at(0);
    assert_int_equal(parse(text, NULL, &sch), 0);
    ac_schedule_free(sch);
}

/* Of a table of betas, too, which is gone once it has been read. */
static void copies(void **state)
{
    ac_diag dg = {0};
    ac_schedule *sch, *same, *noise, *again;

    (void)state;
    assert_int_equal(parse("{'_class_name': 'DDIMScheduler', 'trained_betas': [0.1, 0.2, 0.5], 'num_train_timesteps': 3}", &dg, &sch), 0);
    assert_int_equal(ac_schedule_copy(sch, false, &dg, &same), 0);
    assert_memory_equal(same->abar, sch->abar, 3 * sizeof *sch->abar);
    assert_int_equal(ac_schedule_copy(sch, true, &dg, &noise), 0);
    assert_true(noise->cfg.zero_snr && noise->abar[2] == 0 && fabs(noise->abar[0] - 0.9) < 1e-12);
    assert_int_equal(ac_schedule_copy(noise, true, &dg, &again), 0);
    assert_memory_equal(again->abar, noise->abar, 3 * sizeof *sch->abar);
    ac_schedule_free(sch);
    ac_schedule_free(same);
    ac_schedule_free(noise);
    ac_schedule_free(again);
    assert_int_equal(parse("{'_class_name': 'DDIMScheduler', 'num_train_timesteps': 1}", &dg, &sch), 0);
    assert_int_equal(ac_schedule_copy(sch, true, &dg, &same), ADDCL_E_FORMAT);
    assert_null(same);
    ac_schedule_free(sch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes),          cmocka_unit_test(keys),  cmocka_unit_test(config_errors),
        cmocka_unit_test(ignored_settings), cmocka_unit_test(names), cmocka_unit_test(no_memory),
        cmocka_unit_test(copies),
    };
    return cmocka_run_group_tests_name("schedule_config", tests, NULL, NULL);
}
