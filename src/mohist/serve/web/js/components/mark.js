import { html } from "../../vendor/preact.js";

/** The sign of Mohist: circle and square, the tools by which the Mohists judged. */
export function Mark() {
  return html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
    <rect x="3" y="3" width="26" height="26" rx="6" />
    <circle cx="16" cy="16" r="7.5" />
    <circle class="dot" cx="16" cy="16" r="2" />
  </svg>`;
}
