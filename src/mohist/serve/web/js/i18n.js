// The page's words. A dictionary is a module in i18n/; `{name}` in an entry is filled in. English is the base.

import { en } from "./i18n/en.js";
import { zh } from "./i18n/zh.js";
import { zhErrors } from "./i18n/zh_errors.js";
import { settings } from "./settings.js";

const DICTIONARIES = { en, zh };
const ERRORS = { en: {}, zh: zhErrors }; // The server speaks English.
const NUMBERS = /\d+(?:,\d{3})*/g;

/** The language in use: the chosen one, or the browser's first that there is a dictionary for. */
export function language() {
  const chosen = settings.get().language;
  if (chosen in DICTIONARIES) return chosen;
  const wanted = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase());
  return wanted.find((tag) => tag in DICTIONARIES) ?? "en";
}

/** The tag that `lang` attributes and number formats want. */
export const locale = () => (language() === "zh" ? "zh-Hans" : "en");

/** The words for `key`. With `n` given, `key_one` is taken for one thing, and numbers are written out. */
export function t(key, values = {}) {
  const words = DICTIONARIES[language()];
  const text = (values.n === 1 && words[`${key}_one`]) || words[key];
  if (text === undefined) throw new Error(`no words for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : String(value);
  });
}

/** What the server's error says, in the page's language where that knows its text or its code. */
export function explained({ status, code, message }) {
  const words = ERRORS[language()];
  const key = [message.replace(NUMBERS, "#"), `${code} ${status}`, code].find((name) => Object.hasOwn(words, name));
  if (key === undefined) return message;
  const numbers = message.match(NUMBERS);
  return words[key].replace(/\{(\d)\}/g, (_, index) => number(Number(numbers[index].replaceAll(",", ""))));
}

export function number(value, options = {}) {
  return new Intl.NumberFormat(locale(), options).format(value);
}

/** Seconds for people: 0.8 s, 12 s, 3 min 5 s. Short times have `digits` after the point. */
export function seconds(value, digits = 1) {
  if (value < 10) return t("seconds", { s: number(value, { maximumFractionDigits: digits }) });
  if (value < 60) return t("seconds", { s: number(Math.round(value)) });
  const whole = Math.round(value);
  return t("minutes", { m: number(Math.floor(whole / 60)), s: number(whole % 60) });
}

/** Money, with as many digits as a small sum needs. */
export function money(value, currency) {
  const digits = value > 0 && value < 0.01 ? { maximumSignificantDigits: 2 } : { maximumFractionDigits: 2 };
  try {
    return number(value, { style: "currency", currency, ...digits });
  } catch {
    return `${number(value, digits)} ${currency}`; // Not an ISO 4217 code: the operator's own unit.
  }
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  const step = Math.min(Math.floor(Math.log10(Math.max(value, 1)) / 3), 3);
  return `${number(value / 1000 ** step, { maximumFractionDigits: step ? 1 : 0 })} ${units[step]}`;
}

/** The group of the list of conversations that a time belongs to. */
export function dayGroup(time, now = Date.now()) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (time >= midnight) return "today";
  if (time >= midnight - 86_400_000) return "yesterday";
  return time >= midnight - 6 * 86_400_000 ? "thisWeek" : "older";
}
