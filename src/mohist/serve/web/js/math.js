// LaTeX in Markdown: `$...$` and `\(...\)` in a line, `$$...$$`, `\[...\]` and `\begin{...}` on their own.
// KaTeX is loaded when the first formula appears. It is told to trust nothing: no links, pictures or attributes.

const OPTIONS = { trust: false, throwOnError: true, strict: "ignore", maxSize: 10, maxExpand: 500 };

// A dollar sign opens a formula only before a sign that is not a space, and closes one only after such a sign
// and not before a digit: "$5 and $10" is money.
const INLINE = /^(?:\$(?!\s)((?:\\.|[^\\$\n])+?)(?<![\s\\])\$(?!\d)|\\\(([\s\S]+?)\\\))/;
const DISPLAY = /^(?:\$\$([^\n$]+?)\$\$|\\\[([\s\S]+?)\\\])/;
const BLOCK =
  /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|(\\begin\{([a-zA-Z]+\*?)\}[\s\S]+?\\end\{\4\}))[ \t]*(?:\n|$)/;

const escape = (text) => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** For marked: formulas become `<span data-math>` with their source as text, until `typeset` takes them. */
export const mathExtensions = [
  {
    name: "mathBlock",
    level: "block",
    start: (source) => source.match(/(?<=\n) {0,3}(?:\$\$|\\\[|\\begin\{)/)?.index,
    tokenizer(source) {
      const match = BLOCK.exec(source);
      if (match) return { type: "mathBlock", raw: match[0], text: match[1] ?? match[2] ?? match[3] };
    },
    renderer: ({ text }) => `<p><span data-math="block">${escape(text.trim())}</span></p>`,
  },
  {
    name: "mathInline",
    level: "inline",
    start: (source) => source.match(/\$|\\[[(]/)?.index,
    tokenizer(source) {
      const display = DISPLAY.exec(source);
      const match = display ?? INLINE.exec(source);
      const kind = display ? "block" : "inline";
      if (match) return { type: "mathInline", raw: match[0], text: match[1] ?? match[2], kind };
    },
    renderer: ({ text, kind }) => `<span data-math="${kind}">${escape(text)}</span>`,
  },
];

let katex = null;
let loading = null;

/** Load the library and its style; null if it is here already. */
export function loadMath() {
  if (katex) return null;
  loading ??= import("../vendor/katex/katex.js").then(() => {
    katex = globalThis.katex;
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("../vendor/katex/katex.css", import.meta.url);
    document.head.append(style);
  });
  return loading;
}

/** Put the formula where its source stands. What KaTeX cannot read stays source. */
export function typeset(element) {
  const source = element.textContent;
  if (!katex) return;
  try {
    const tree = katex.__renderToDomTree(source, { ...OPTIONS, displayMode: element.dataset.math === "block" });
    dropStyleAttributes(tree);
    element.replaceChildren(tree.toNode());
  } catch (error) {
    if (!(error instanceof katex.ParseError)) throw error;
    element.classList.add("unreadable");
    element.title = error.message;
  }
}

/** A few MathML elements carry a `style` attribute, which the page's policy forbids; MathML is not seen anyway. */
function dropStyleAttributes(node) {
  delete node.attributes?.style;
  node.children?.forEach(dropStyleAttributes);
}
