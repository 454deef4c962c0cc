/* report.h - report.html of a run folder, the page of an evaluation, and the model card of an exported model. */
#ifndef AC_REPORT_H
#define AC_REPORT_H

#include "base/mem.h"

#define AC_CHART_SERIES 4

/* One chart of report.html. */
typedef struct ac_report_chart {
    const char *title; /* "Loss" */
    const char *unit;  /* of the y axis, "" for none */
    /* Columns of log.csv, NULL where there are fewer; columns that are absent or empty are left out. One with gaps
     * (a held-out loss) is drawn with dots, a dense one with a smoothed line over its raw values. */
    const char *column[AC_CHART_SERIES];
    const char *label[AC_CHART_SERIES]; /* in the legend; NULL: the column's name */
    bool linear;                        /* never a logarithmic y axis (else where all values > 0 span a factor of 20) */
} ac_report_chart;

typedef struct ac_report {
    const char *title;            /* name of the run */
    const char *status;           /* "running", "finished", "interrupted", "failed" */
    const char *const (*fact)[2]; /* summary {name, value}: method, model size, data, device, time, throughput */
    size_t n_facts;
    const ac_report_chart *chart;
    size_t n_charts;
    const char *const *caption; /* of the pictures of a grid in order (prompts); may be NULL */
    size_t n_captions;
    int columns;        /* of pictures in a grid; 0: near square */
    const char *config; /* text of the effective configuration; NULL: none */
} ac_report;

/* Writes <run_dir>/report.html from r, log.csv, events.jsonl and samples/: one file that needs no other. What cannot be
 * read is left out with a note. */
AC_CHECK_RESULT int ac_report_write(const char *run_dir, const ac_report *r, ac_diag *dg);

/* A PNG file with pictures, and the captions of as many of them as have one. */
typedef struct ac_eval_sheet {
    const char *heading, *path;
    const char *const *caption;
    size_t n_captions;
} ac_eval_sheet;

/* The page of an evaluation: a table, curves, sheets of pictures. */
typedef struct ac_eval_page {
    const char *title;
    const char *const (*fact)[2]; /* {name, value} */
    size_t n_facts;
    const char *const *cell;      /* of the table, rows x columns; the first row is its head */
    size_t rows, columns;
    const ac_report_chart *chart; /* of the columns of `curves`, over its column "step" */
    size_t n_charts;
    const struct ac_table *curves;
    const ac_eval_sheet *sheet;
    size_t n_sheets;
    int sheet_columns; /* of pictures */
} ac_eval_page;
AC_CHECK_RESULT int ac_eval_page_write(const char *path, const ac_eval_page *p, ac_diag *dg);

/* The model card of an exported model. Texts are Markdown, except where they are names. What is NULL or empty is left
 * out with its heading. */
typedef struct ac_card {
    const char *name;               /* "emoji-turbo" */
    const char *summary;            /* a paragraph: what the model makes, and from what */
    const char *license;            /* front matter: "mit", "apache-2.0", "other" */
    const char *base;               /* the model it was trained from, a name or a path; NULL: from scratch */
    const char *data;               /* paragraphs on the data it saw */
    const char *licenses;           /* lines on the licences of base and data */
    const char *const (*figure)[2]; /* of the training: {name, value} */
    size_t n_figures;
    const char *config; /* the effective configuration */
    const char *grid;   /* a sheet of samples, a file in the folder */
    const char *shows;  /* what is on it */
    int steps;          /* for a model that makes pictures of text: its own defaults, which add-cl reads from the card; 0: it is none */
    double guidance;
    int width, height;
    const char *prompt; /* of the examples; NULL: none are shown */
} ac_card;

/* Writes <dir>/README.md. */
AC_CHECK_RESULT int ac_card_write(const char *dir, const ac_card *c, ac_diag *dg);

#endif
