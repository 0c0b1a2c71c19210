import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { get, patch, post, remove } from "../api.js";
import { copyText } from "../clipboard.js";
import { locale, number, t } from "../i18n.js";
import { attempt, useLoad } from "./load.js";
import { Table } from "./table.js";

const LIMITS = ["requests_per_minute", "tokens_per_minute", "concurrent_requests"];

/** Who may use the server, and how much. */
export function Keys() {
  const { data, reload } = useLoad(() => get("/admin/keys"));
  const [made, setMade] = useState(null);
  const [limited, setLimited] = useState(null); // the key whose limits are being changed
  const revoke = async ({ id }) => {
    await attempt(remove(`/admin/keys/${encodeURIComponent(id)}`));
    await reload();
  };
  const create = async (wanted) => {
    const answer = await attempt(post("/admin/keys", wanted));
    if (answer) setMade(answer);
    await reload();
    return Boolean(answer);
  };
  const limit = async (wanted) => {
    if (!(await attempt(patch(`/admin/keys/${encodeURIComponent(limited.id)}`, wanted)))) return;
    setLimited(null);
    await reload();
  };
  const limits = (key) =>
    LIMITS.filter((name) => key.limits[name] !== null).map((name) => `${t(name)}: ${number(key.limits[name])}`);
  const columns = [
    [t("name"), (key) => html`<strong>${key.name}</strong><br /><small>${key.id}</small>`],
    [t("role"), (key) => t(`role_${key.role}`)],
    [t("limits"), (key) => limits(key).join(", ") || "–"],
    [t("created"), (key) => new Date(key.created_ms).toLocaleDateString(locale())],
    [
      "",
      (key) =>
        key.revoked_ms === null
          ? html`<div class="row end">
              <button type="button" class="quiet" aria-label=${t("limitKey", { name: key.name })} onClick=${() => setLimited(key)}>
                ${t("changeLimits")}
              </button>
              <button type="button" class="danger" aria-label=${t("revokeKey", { name: key.name })} onClick=${() => revoke(key)}>
                ${t("revoke")}
              </button>
            </div>`
          : t("revoked"),
    ],
  ];
  return html`<section aria-labelledby="keys">
    <h2 id="keys">${t("keys")}</h2>
    ${made && html`<${NewKey} made=${made} />`}
    ${
      data?.length > 0
        ? html`<${Table} label=${t("keys")} columns=${columns} rows=${data} name=${(key) => key.id} />`
        : html`<p class="hint">${t("noKeys")}</p>`
    }
    <div class="forms">
      ${limited && html`<${Limit} key=${limited.id} of=${limited} save=${limit} cancel=${() => setLimited(null)} />`}
      <${Create} create=${create} />
    </div>
  </section>`;
}

function NewKey({ made }) {
  return html`<div class="verdict good" role="status">
    <div class="stack">
      <p>${t("keyShownOnce", { name: made.info.name })}</p>
      <p><code>${made.key}</code></p>
      <p><button type="button" class="quiet" onClick=${() => copyText(made.key)}>${t("copy")}</button></p>
    </div>
  </div>`;
}

/** Other limits for a key that exists. */
function Limit({ of, save, cancel }) {
  const [wanted, setWanted] = useState(fieldsOf(of.limits));
  const form = useRef(null);
  useEffect(() => form.current.querySelector("input").focus(), []);
  const set = (name) => (event) => setWanted({ ...wanted, [name]: event.currentTarget.value });
  const submit = (event) => {
    event.preventDefault();
    save(limitsOf(wanted));
  };
  return html`<form class="stack" ref=${form} onSubmit=${submit}>
    <h3>${t("limitKey", { name: of.name })}</h3>
    <div class="grid"><${LimitFields} wanted=${wanted} set=${set} /></div>
    <p class="hint">${t("limitsHold")}</p>
    <div class="row end">
      <button type="button" class="quiet" onClick=${cancel}>${t("cancel")}</button>
      <button type="submit" class="primary">${t("save")}</button>
    </div>
  </form>`;
}

/** One number field a limit; an empty one is no limit. */
function LimitFields({ wanted, set }) {
  return LIMITS.map(
    (name) => html`<label class="field">
      <span>${t(name)}</span>
      <input type="number" min="1" step="1" placeholder=${t("noLimit")} value=${wanted[name]} onInput=${set(name)} />
    </label>`,
  );
}

/** Limits as the fields have them, and back. */
const fieldsOf = (limits) => Object.fromEntries(LIMITS.map((name) => [name, limits[name] ?? ""]));
const limitsOf = (fields) =>
  Object.fromEntries(LIMITS.map((name) => [name, fields[name] === "" ? null : Number(fields[name])]));

function Create({ create }) {
  const empty = { name: "", role: "user", ...fieldsOf({}) };
  const [wanted, setWanted] = useState(empty);
  const set = (name) => (event) => setWanted({ ...wanted, [name]: event.currentTarget.value });
  const submit = async (event) => {
    event.preventDefault();
    if (await create({ name: wanted.name, role: wanted.role, ...limitsOf(wanted) })) setWanted(empty);
  };
  return html`<form class="stack" onSubmit=${submit}>
    <h3>${t("newKey")}</h3>
    <div class="grid">
      <label class="field"><span>${t("name")}</span><input required maxlength="200" value=${wanted.name} onInput=${set("name")} /></label>
      <label class="field">
        <span>${t("role")}</span>
        <select value=${wanted.role} onChange=${set("role")}>
          <option value="user">${t("role_user")}</option>
          <option value="admin">${t("role_admin")}</option>
        </select>
      </label>
      <${LimitFields} wanted=${wanted} set=${set} />
    </div>
    <div class="row end"><button type="submit" class="primary">${t("create")}</button></div>
  </form>`;
}
