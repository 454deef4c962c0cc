/* report_page.h - what the parts of pages share; private to src/io/report*.c. */
#ifndef AC_REPORT_PAGE_H
#define AC_REPORT_PAGE_H

#include "io/report.h"
#include "io/runlog.h"

extern const char ac_report_style[];  /* the style sheet */
extern const char ac_report_script[]; /* lets an earlier sheet of samples be looked at */

/* Text with the characters that HTML uses replaced; also fit for attribute values. */
void ac_html_text(ac_str *s, const char *text);
/* 1234567 as "1,234,567". */
void ac_html_count(ac_str *s, int64_t n);

/* A page: its beginning up to the title; the end of its header, behind an open paragraph; {name, value} as a grid; its end. */
void ac_page_head_add(ac_str *s, const char *title);
void ac_page_written_add(ac_str *s);
void ac_page_facts_add(ac_str *s, const char *const (*fact)[2], size_t n);
void ac_page_end_add(ac_str *s);
/* A PNG file on a card, its captions (may be none) below; a file that cannot be read is left out with a note. columns: of the
 * pictures on it, 0: near square. */
void ac_page_sheet_add(ac_str *s, const char *heading, const char *path, const char *const *caption, size_t n_captions, int columns,
                       ac_diag *dg);

/* The chart as a figure with an inline SVG; nothing when the log has no value for it. `mark`: n_marks steps that get a
 * vertical line (the training was resumed there). */
AC_CHECK_RESULT int ac_report_chart_add(ac_str *s, const ac_report_chart *chart, const ac_table *log,
                                        const double *mark, size_t n_marks, ac_diag *dg);
/* The sheets <run_dir>/samples/step-<n>[-<series>].png of steps up to `last`, in a section for each series. */
AC_CHECK_RESULT int ac_report_samples_add(ac_str *s, const char *run_dir, const ac_report *r, int64_t last,
                                          ac_diag *dg);

#endif
