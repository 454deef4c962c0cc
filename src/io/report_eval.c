/* report_eval.c - the page of an evaluation. */
#include "io/report_page.h"

#include <stdlib.h>

#include "base/file.h"

static void put_table(ac_str *s, const ac_eval_page *p)
{
    ac_str_add(s, "<h2>Scores</h2>\n<div class=\"card\"><table class=\"numbers\">\n");
    for (size_t r = 0; r < p->rows; r++) {
        ac_str_add(s, "<tr>");
        for (size_t c = 0; c < p->columns; c++) {
            ac_str_add(s, r ? "<td>" : "<th>");
            ac_html_text(s, p->cell[r * p->columns + c]);
            ac_str_add(s, r ? "</td>" : "</th>");
        }
        ac_str_add(s, "</tr>\n");
    }
    ac_str_add(s, "</table></div>\n");
}

int ac_eval_page_write(const char *path, const ac_eval_page *p, ac_diag *dg)
{
    ac_str s = {0};
    int rc = 0;

    ac_page_head_add(&s, p->title);
    ac_str_add(&s, "<p>");
    ac_page_written_add(&s);
    ac_page_facts_add(&s, p->fact, p->n_facts);
    put_table(&s, p);
    if (p->n_charts)
        ac_str_add(&s, "<h2>Curves</h2>\n<div class=\"charts\">\n");
    for (size_t i = 0; i < p->n_charts; i++)
        AC_TRY(ac_report_chart_add(&s, &p->chart[i], p->curves, NULL, 0, dg));
    if (p->n_charts)
        ac_str_add(&s, "</div>\n");
    for (size_t i = 0; i < p->n_sheets; i++)
        ac_page_sheet_add(&s, p->sheet[i].heading, p->sheet[i].path, p->sheet[i].caption, p->sheet[i].n_captions, p->sheet_columns, dg);
    ac_page_end_add(&s);
    rc = s.failed ? ac_nomem(dg, s.n) : ac_file_save(path, s.p, s.n, dg);
out:
    ac_str_free(&s);
    return rc;
}
