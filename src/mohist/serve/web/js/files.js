// Files as context: text as it is, PDFs through the server. A file becomes {id, name, text, pages}.

import { ApiError, readPdf } from "./api.js";
import { newId } from "./conversations.js";
import { bytes, explained, t } from "./i18n.js";

/** Read a file that a person chose. Throws an Error whose message says, in their language, why it cannot be. */
export async function readFile(file) {
  const isPdf = file.type === "application/pdf" || /\.pdf$/i.test(file.name);
  const most = mostBytes(isPdf ? "pdf" : "body");
  if (file.size > most) {
    throw new Error(t("fileTooLarge", { name: file.name, size: bytes(file.size), most: bytes(most) }));
  }
  const { text, pages } = isPdf ? await pdf(file) : { text: decode(await file.arrayBuffer(), file.name) };
  if (!text.trim()) throw new Error(t(isPdf ? "pdfWithoutText" : "fileEmpty", { name: file.name }));
  return { id: newId(), name: file.name, text, pages };
}

/** What the server takes at once, of a PDF file or else of a question with all that belongs to it. */
const mostBytes = (what) => Number(document.querySelector(`meta[name="max-${what}-bytes"]`).content);

async function pdf(file) {
  try {
    return await readPdf(file);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    throw new Error(t("fileUnreadable", { name: file.name, why: explained(error) }));
  }
}

/** UTF-8 (with or without a mark), UTF-16 with a mark, or else GB 18030, in which older Chinese files are. */
function decode(buffer, name) {
  const [first, second] = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  const utf16 = first === 0xff && second === 0xfe ? "utf-16le" : first === 0xfe && second === 0xff && "utf-16be";
  for (const encoding of utf16 ? [utf16] : ["utf-8", "gb18030"]) {
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(buffer);
      if (!text.includes("\0")) return text.replace(/\r\n?/g, "\n");
    } catch {
      continue; // Not in this encoding.
    }
  }
  throw new Error(t("fileNotText", { name }));
}

/** The files that a paste or a drop brings. */
export const filesOf = (transfer) => [...(transfer?.files ?? [])];
