import { html } from "../../vendor/preact.js";

/** A table with a caption for screen readers. `columns` are [heading, cell(row), numeric]. */
export function Table({ label, columns, rows, name }) {
  return html`<div class="table" tabindex="0" role="region" aria-label=${label}>
    <table>
      <thead>
        <tr>${columns.map(([heading, , numeric]) => html`<th scope="col" class=${numeric ? "numeric" : ""}>${heading}</th>`)}</tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr key=${name(row)}>
            ${columns.map(([, cell, numeric]) => html`<td class=${numeric ? "numeric" : ""}>${cell(row)}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
