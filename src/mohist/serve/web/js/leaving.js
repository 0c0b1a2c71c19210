// What is not in the database yet when the page goes away. A write to IndexedDB that begins then may never end;
// one to localStorage is done at once. The next page takes it from there.

import { putRows } from "./database.js";

const NAME = "mohist.unsaved";
const sources = [];

/** `rows()` is asked, when the page goes away, for `[store, row]` pairs that the database lacks. */
export function whenLeaving(rows) {
  sources.push(rows);
}

addEventListener("pagehide", () => {
  const rows = sources.flatMap((source) => source());
  try {
    if (rows.length) localStorage.setItem(NAME, JSON.stringify(rows));
  } catch {
    // Too much, or storage is off: what the database has is at most a second old.
  }
});

/** Put what the last page left behind into the database. */
export async function recover() {
  let rows = null;
  try {
    rows = JSON.parse(localStorage.getItem(NAME));
    localStorage.removeItem(NAME);
  } catch {
    return; // Storage is off: there is nothing.
  }
  if (rows) await putRows(rows);
}
