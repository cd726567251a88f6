"use strict";
// Texts of models and data sets go in by textContent alone. Lists and Maps, no objects keyed by ids: an id may be "__proto__".
(() => {
  const $ = (id) => document.getElementById(id);
  const read = (id) => JSON.parse($(id).textContent);
  const once = (make) => { let made; return () => (made ??= make()); };

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) write(element, text);
    return element;
  }
  function add(parent, ...children) { parent.append(...children.filter(Boolean)); return parent; }
  function button(className, text, act) {
    const element = make("button", className, text);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
  }

  // Characters that are not seen, or turn the text around: drawn as their number, and kept in what is copied.
  const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;
  function write(element, text) {
    let from = 0;
    for (const found of text.matchAll(UNSEEN)) {
      const odd = document.createElement("span");
      odd.className = "odd";
      odd.dataset.code = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      odd.textContent = found[0];
      if (found.index > from) element.append(text.slice(from, found.index));
      element.append(odd);
      from = found.index + found[0].length;
    }
    if (from < text.length) element.append(text.slice(from));
  }

  // Views: "#results", or "#dialogues&left=...&id=...".
  const views = [...document.querySelectorAll(".view")];
  const browser = once(makeBrowser), pair = once(makePair);
  function route() {
    const [target, ...rest] = location.hash.slice(1).split("&");
    const found = target ? $(target) : null, view = found?.closest(".view") ?? views[0];
    for (const one of views) one.hidden = one !== view;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash !== `#${view.id}`) { link.removeAttribute("aria-current"); continue; }
      link.setAttribute("aria-current", "page");
      link.parentElement.scrollLeft = link.offsetLeft - (link.parentElement.clientWidth - link.clientWidth) / 2;
    }
    if (view.id === "results" && document.readyState !== "loading") pair()?.restore(new URLSearchParams(rest.join("&")));
    if (view.id === "dialogues" && document.readyState !== "loading") browser()?.restore(new URLSearchParams(rest.join("&")));
    if (found && found !== view) found.scrollIntoView(); else scrollTo(0, 0);
  }
  if (!views.length) return;
  addEventListener("hashchange", route);
  addEventListener("DOMContentLoaded", route);
  route();

  // What is copied or saved -------------------------------------------------
  async function copy(text, control) {
    try { await navigator.clipboard.writeText(text); } catch {  // where the browser has no clipboard for such pages
      const area = make("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    const before = control.dataset.before ??= control.textContent;
    control.textContent = "Copied";
    setTimeout(() => { control.textContent = before; }, 1500);
  }
  function save(name, text) {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  const ticks = (text, least) => "`".repeat(Math.max(least, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)));
  function inline(text) {  // Markdown that shows the text and does no more
    const flat = text.replace(/\s+/g, " ").trim(), mark = ticks(flat, 1);
    return flat ? `${mark} ${flat} ${mark}` : "–";
  }
  function fenced(text) {
    const lines = text.replace(/\r\n?/g, "\n"), mark = ticks(lines, 3);
    return `${mark}text\n${lines}\n${mark}`;
  }

  // The difference of two models, in the first table -------------------------
  function makePair() {
    if (!$("pair")) return null;
    const rows = read("pairs-json"), ours = $("ours"), theirs = $("theirs"), sides = [ours, theirs];
    const table = document.querySelector(".headline"), body = table.tBodies[0], across = table.classList.contains("across");
    const cell = (row, model) => (across ? body.rows[model].cells[row + 1] : body.rows[row].cells[model + 1]);
    const minus = [...table.querySelectorAll(".minus")];
    let before = [ours.length - 1, 0];
    function draw() {
      const [one, other] = before = sides.map((side) => side.selectedIndex);
      for (const better of table.querySelectorAll(".better")) better.classList.remove("better");
      rows.forEach((pairs, row) => {
        const found = pairs.find(([i, j]) => Math.min(one, other) === i && Math.max(one, other) === j);
        const [value, interval] = found ? found[one < other ? 2 : 3].split(" [") : ["", ""];
        minus[row].replaceChildren(value, ...(interval ? [" ", make("span", "interval", `[${interval}`)] : []));
        if (found && found[4] !== null) cell(row, found[4]).classList.add("better");
      });
      $("side-by-side").href = `#dialogues&${new URLSearchParams({ left: theirs.value, right: ours.value })}`;
    }
    function restore(choice) {
      sides.forEach((side, place) => {
        const found = [...side.options].findIndex((option) => option.value === choice.get(side.id));
        side.selectedIndex = found < 0 ? before[place] : found;
      });
      if (ours.selectedIndex === theirs.selectedIndex) theirs.selectedIndex = ours.selectedIndex ? 0 : ours.length - 1;
      draw();
    }
    sides.forEach((side, place) => side.addEventListener("change", () => {
      if (ours.selectedIndex === theirs.selectedIndex) sides[1 - place].selectedIndex = before[place];
      draw();
      history.replaceState(null, "", `#results&${new URLSearchParams({ ours: ours.value, theirs: theirs.value })}`);
    }));
    return { restore };
  }

  function makeBrowser() {
    const data = read("data-json");
    if (!data.suites.length) return null;
    const urls = once(() => read("pictures-json"));
    const labels = data.models.map(([, label]) => label), keys = data.models.map(([key]) => key);
    const items = data.suites.flatMap((suite) => suite.scripts.map((script) => ({ suite, script, words: null })));
    const OUTCOMES = new Map([
      ["held", "held"], ["gave_way", "gave way"], ["gave_way_breached", "gave way: breached"], ["breached", "breached"], ["answered", "answered"], ["over_refused", "over-refused"], ["unscored", "unscored"],
      ["failed", "failed"], ["incomplete", "incomplete"],
    ]);
    const SIGN = new Map([
      ["held", "✓"], ["answered", "✓"], ["gave_way", "✕"], ["breached", "✕"], ["over_refused", "⊘"], ["unscored", "?"], ["failed", "!"], ["incomplete", "…"],
    ]);
    const PROTOCOLS = new Map([["multi_turn", "multi-turn"], ["single_turn", "single-turn"], ["adaptive", "adaptive"]]);
    const COMPARED = new Map([["differ", "the two differ"], ["left-only", "only the left one failed"], ["right-only", "only the right one failed"]]);
    const FILTERS = ["protocol", "suite", "kind", "category", "technique", "outcome", "first", "search"];
    const controls = new Map([...FILTERS, "left", "right"].map((name) => [name, $(name)]));
    const BY = "by:";  // begins a choice of "first" that is the technique of the turn
    const value = (name) => controls.get(name).value;
    const list = $("list"), rows = $("rows"), view = $("dialogue");
    const ROW = 68;
    let shown = [], current = null, thinking = true;

    const answerOf = (item, model) => (model < 0 ? undefined : item.script.answers.find((answer) => answer.model === model));
    const left = () => Number(value("left")), right = () => Number(value("right"));
    const bad = (answer) => ["gave_way", "breached", "over_refused"].includes(answer?.outcome);
    const outcomes = (answer) => (answer ? [answer.outcome, ...(answer.breached ? ["gave_way_breached"] : [])] : []);
    const ending = (answer) => OUTCOMES.get(answer.outcome) + (answer.turn ? `, turn ${answer.turn}` : "");
    const suiteLabel = (suite) => (suite.protocol === "multi_turn" ? suite.name : `${suite.name}, ${PROTOCOLS.get(suite.protocol)}`);

    // Filters ---------------------------------------------------------------
    function choices(name, groups) {
      const select = controls.get(name), before = select.selectedOptions[0];
      select.replaceChildren(...groups.flatMap(([title, pairs]) => {
        const options = pairs.map(([key, text]) => option(key, text));
        if (!title || !options.length) return options;
        const group = add(document.createElement("optgroup"), ...options);
        group.label = title;
        return [group];
      }));
      if (before) ask(name, before.value, before.textContent.replace(/ \(\d+\)$/, ""));
    }
    function option(key, text) {
      const made = make("option", "", text);
      made.value = key;
      return made;
    }
    function ask(name, key, text = key) {  // what no dialogue has stays chosen, and lists none
      const control = controls.get(name);
      control.value = key;
      if (control.selectedIndex < 0) {
        add(control, option(key, `${text} (0)`));
        control.value = key;
      }
    }
    function counted(of, name) {
      const counts = new Map();
      for (const item of of) for (const one of name(item)) counts.set(one, (counts.get(one) ?? 0) + 1);
      return counts;
    }
    const several = (counts) => [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, many]) => [name, `${name} (${many})`]);
    const ofProtocol = (suite) => !value("protocol") || suite.protocol === value("protocol");
    const ofSuite = (item) => ofProtocol(item.suite) && (!value("suite") || item.suite.file === value("suite"));
    const ofKind = (item) => !value("kind") || item.script.kind === value("kind");
    const ofCategory = (item) => !value("category") || item.script.category === value("category");
    const ofTechnique = (item) => !value("technique") || techniques(item).includes(value("technique"));
    const ofFirst = (item) => !value("first") || failed(item).includes(value("first"));
    const played = (item) => answerOf(item, left()) || answerOf(item, right());

    function fill() {
      const some = items.filter((item) => played(item));
      const protocols = counted(some, (item) => [item.suite.protocol]);
      choices("protocol", [["", [["", "all"], ...[...PROTOCOLS].filter(([name]) => protocols.has(name)).map(([name, text]) => [name, `${text} (${protocols.get(name)})`])]]]);
      const suites = data.suites.filter(ofProtocol).map((suite) => [suite.file, `${suiteLabel(suite)} (${suite.total})`]);
      choices("suite", [["", [["", `all (${some.filter((item) => ofProtocol(item.suite)).length})`], ...suites]]]);
      choices("kind", [["", [["", "all"], ...several(counted(some.filter(ofSuite), (item) => [item.script.kind]))]]]);
      const ofKinds = some.filter((item) => ofSuite(item) && ofKind(item));
      choices("category", [["", [["", "all"], ...several(counted(ofKinds, (item) => [item.script.category].filter(Boolean)))]]]);
      controls.get("category").parentElement.hidden = !value("category") && !items.some((item) => item.script.category);
      const narrowed = ofKinds.filter(ofCategory);
      choices("technique", [["", [["", "all"], ...several(counted(narrowed, techniques))]]]);
      const left_ = narrowed.filter(ofTechnique);
      const sides = [["left", left()], ["right", right()]].filter(([, model]) => model >= 0).map(([side, model]) => {
        const counts = counted(left_, (item) => outcomes(answerOf(item, model)));
        return [labels[model], [...OUTCOMES].filter(([name]) => counts.has(name)).map(([name, text]) => [`${side}:${name}`, `${text} (${counts.get(name)})`])];
      });
      const compared = right() < 0 ? [] : [...COMPARED].map(([name, text]) => [name, `${text} (${left_.filter((item) => ends(item, name)).length})`]);
      choices("outcome", [["", [["", "all"]]], ...sides, ["Compared", compared]]);
      const firsts = [...counted(left_, failed)], by = firsts.filter(([name]) => name.startsWith(BY)).sort();
      const turns = firsts.filter(([name]) => !name.startsWith(BY)).sort(([a], [b]) => a - b);
      choices("first", [
        ["", [["", "any turn"], ...turns.map(([turn, many]) => [turn, `turn ${turn} (${many})`])]],
        ["Technique of the turn", by.map(([name, many]) => [name, `${name.slice(BY.length)} (${many})`])],
      ]);
    }
    function ends(item, want) {
      if (!want) return true;
      const [one, other] = [answerOf(item, left()), answerOf(item, right())];
      const [side, outcome] = want.split(":");
      if (outcome) return outcomes(new Map([["left", one], ["right", other]]).get(side)).includes(outcome);
      if (!one || !other) return false;
      if (want === "differ") return one.outcome !== other.outcome;
      return (want === "left-only" && bad(one) && !bad(other)) || (want === "right-only" && bad(other) && !bad(one));
    }
    const meant = () => (value("outcome").startsWith("right") ? right() : left());
    function failed(item) {  // the turn, and its technique
      const answer = answerOf(item, meant());
      return bad(answer) ? [String(answer.turn), ...(answer.by ? [BY + answer.by] : [])] : [];
    }
    function techniques(item) {  // of the model whose outcome is chosen, else of both
      const models = /^(left|right)/.test(value("outcome")) ? [meant()] : [left(), right()];
      return techniquesIn(models.map((model) => answerOf(item, model)));
    }
    const techniquesIn = (answers) => [...new Set(answers.flatMap((answer) => answer?.techniques ?? []))];
    function words(item) {
      const { script } = item;
      item.words ??= [script.id, script.intent, ...[script, ...script.answers].flatMap((one) => [...(one.asked ?? []), ...(one.turns ?? [])]
        .flatMap((turn) => [turn.user, turn.asked?.user, turn.answer]))].filter(Boolean).join("\n").toLowerCase();
      return item.words;
    }
    function refresh(keep = true) {
      const said = value("search").trim().toLowerCase();
      shown = items.filter((item) => played(item) && ofSuite(item) && ofKind(item) && ofCategory(item) && ofTechnique(item) && ends(item, value("outcome"))
        && ofFirst(item) && (!said || words(item).includes(said)));
      const held = data.suites.reduce((sum, suite) => sum + suite.scripts.length, 0), total = data.suites.reduce((sum, suite) => sum + suite.total, 0);
      const cut = total > held ? ` The page holds ${held.toLocaleString("en")} of ${total.toLocaleString("en")}, drawn by a hash of their ids; the rest are in the run folder.` : "";
      $("status").textContent = `${shown.length.toLocaleString("en")} of ${held.toLocaleString("en")} scripts.${cut}`;
      $("clear").hidden = FILTERS.every((name) => !value(name));
      rows.style.height = `${shown.length * ROW}px`;
      if (!keep || !shown.includes(current)) current = shown[0] ?? null;
      reveal();
      draw();
      remember();
    }

    // The list: only rows in sight are in the document ------------------------
    function paint() {
      const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 4), to = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
      rows.replaceChildren(...shown.slice(from, to).map((item, offset) => entry(item, from + offset)));
      const place = shown.indexOf(current);
      if (place >= from && place < to) list.setAttribute("aria-activedescendant", `row-${place}`); else list.removeAttribute("aria-activedescendant");
    }
    function entry(item, place) {
      const row = make("div", "row");
      row.id = `row-${place}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(item === current));
      row.setAttribute("aria-posinset", String(place + 1));
      row.setAttribute("aria-setsize", String(shown.length));
      row.style.top = `${place * ROW}px`;
      const ended = make("span", "ends");
      for (const model of [left(), right()]) {
        const answer = answerOf(item, model);
        if (answer) ended.append(chip(answer, true));
      }
      const title = add(make("span", "where"), make("span", "id", item.script.id), value("suite") ? null : make("span", "suite", suiteLabel(item.suite)));
      add(row, title, make("span", "first", item.script.asked?.[0]?.user ?? item.script.intent ?? ""), ended);
      row.addEventListener("click", () => { open(place); arrive(); });
      return row;
    }
    function chip(answer, brief) {
      const sign = SIGN.get(answer.outcome), label = labels[answer.model];
      const text = brief ? `${sign}${answer.turn ?? ""} ${label}` : `${sign} ${label} ${ending(answer)}`;
      const end = make("span", `end ${answer.outcome}`, text);
      end.title = `${labels[answer.model]}: ${ending(answer)}`;
      return end;
    }
    function reveal() {
      const place = shown.indexOf(current);
      if (place >= 0) {
        const top = place * ROW;
        if (top < list.scrollTop) list.scrollTop = top;
        else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
      }
      paint();
    }
    function open(place) {
      if (!shown[place]) return;
      current = shown[place];
      reveal();
      draw();
      remember();
      if (view.getBoundingClientRect().top < 0) view.scrollIntoView({ block: "start" });
    }
    const step = (by) => open(Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + by)));
    function arrive() {
      if (matchMedia("(max-width: 820px)").matches) { view.focus({ preventScroll: true }); view.scrollIntoView({ block: "start" }); }
    }

    // One dialogue ------------------------------------------------------------
    function draw() {
      if (!current) { $("shown").replaceChildren(make("p", "empty", "No dialogue fits this choice.")); return; }
      const { script } = current;
      const models = [left(), right()].filter((model) => model >= 0);
      const columns = models.map((model) => answerOf(current, model) ?? { model, missing: true });
      const length = Math.max(0, ...columns.map((answer) => answer.turns?.length ?? 0));
      const turns = Array.from({ length }, (_, index) => drawTurn(script, columns, index));
      if (columns.some((answer) => answer.taken)) {  // after the last turn
        turns.push(add(make("div", `columns of-${columns.length}`), ...columns.map((answer) => add(make("div"), answer.taken ? drawTaken(answer.taken, answer) : null))));
      }
      $("shown").replaceChildren(drawTop(script, columns), ...turns);
    }
    function drawTop(script, columns) {
      const place = shown.indexOf(current);
      const title = make("h3", "id", script.id);
      title.id = "dialogue-id";
      const back = button("", "‹", () => step(-1)), next = button("", "›", () => step(1));
      back.setAttribute("aria-label", "Previous dialogue");
      next.setAttribute("aria-label", "Next dialogue");
      back.disabled = place <= 0;
      next.disabled = place >= shown.length - 1;
      const markdown = button("copy", "Copy as Markdown", () => copy(inMarkdown(script, columns), markdown));
      const pages = add(make("div", "pages"), markdown, back, make("span", "", `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`), next);
      const facts = [suiteLabel(current.suite), script.kind, script.category, script.source, script.safe ? "safe script" : ""].filter(Boolean).join(" · ");
      const about = add(make("div", "about"), add(make("div", "heading"), title, pages), make("p", "note", facts));
      if (script.intent) about.append(add(make("p"), make("span", "who", "Intent"), make("span", "text", script.intent)));
      const named = techniquesIn(columns);
      if (named.length) about.append(add(make("p"), make("span", "who", "Techniques"), ...named.flatMap((name) => [make("span", "badge", name), " "])));
      const ended = make("div", "all");
      for (const answer of script.answers) {
        const one = button("", "", () => { put("right", answer.model === right() ? left() : answer.model); });
        one.title = "Show on the right";
        ended.append(add(one, chip(answer, false)));
      }
      about.append(ended);
      for (const answer of columns) {
        const stop = answer.stop && answer.stop !== "completed" && answer.stop !== "success" ? `${labels[answer.model]} stopped: ${answer.stop.replace(/_/g, " ")}` : "";
        if (stop || answer.error) about.append(make("p", "note", [stop, answer.error].filter(Boolean).join(", ")));
      }
      if (columns.some((answer) => answer.turns?.some((turn) => turn.thinking))) about.append(toggle("Thinking", thinking, (on) => { thinking = on; draw(); }));
      return add(make("div", "top"), drawPictures(script.images, "the dialogue"), about);
    }
    function drawPictures(images, owner) {
      if (!images?.length) return null;
      return add(make("div", "shown"), ...images.map((index, place) => {
        const [path, small, large] = data.pictures[index];
        if (small === null) return make("p", "absent", `Picture not on this page: ${path}`);
        const picture = make("img");
        picture.src = urls()[small];
        picture.alt = `Picture ${place + 1} of ${owner}`;
        const thumb = button("thumb", "", () => enlarge(urls()[large], path));
        thumb.title = "Enlarge";
        return add(thumb, picture);
      }));
    }
    function enlarge(url, path) {
      const picture = $("picture");
      picture.src = url;
      picture.alt = path;
      picture.onload = () => picture.classList.toggle("tiny", Math.max(picture.naturalWidth, picture.naturalHeight) <= 128);
      $("path").textContent = path;
      $("large").showModal();
    }
    function toggle(text, on, change) {
      const box = make("input");
      box.type = "checkbox";
      box.checked = on;
      box.addEventListener("change", () => {
        change(box.checked);
        [...view.querySelectorAll(".toggle")].find((other) => other.textContent === text).firstChild.focus();
      });
      return add(make("label", "toggle"), box, text);
    }
    function drawTurn(script, columns, index) {
      const asked = columns.filter((answer) => answer.turns?.[index]).map((answer) => answer.turns[index].asked ?? script.asked[index]);
      const same = new Set(asked.map((one) => JSON.stringify([one.user, one.images]))).size === 1;
      const block = make("section", "turn");
      block.setAttribute("aria-label", `Turn ${index + 1}`);
      if (same) block.append(drawUser(asked[0], index, columns.find((answer) => answer.turns?.[index])));
      const pair = make("div", `columns of-${columns.length}`);
      for (const answer of columns) pair.append(drawAnswer(script, answer, index, same));
      return add(block, pair);
    }
    function drawUser(asked, index, answer) {
      const head = make("span", "who", `User, turn ${index + 1}`);
      if (asked.technique) head.append(" ", make("span", "badge", asked.technique));
      const said = add(make("div", "user"), head, drawPictures(asked.images, `turn ${index + 1}`), make("div", "text", asked.user));
      if (asked.thought) said.append(add(make("details", "thinking"), make("summary", "", "The attacker's thought"), make("div", "text", asked.thought)));
      if (asked.cut) said.append(drawCut(asked.cut, answer));
      return said;
    }
    function drawAnswer(script, answer, index, same) {
      const turn = answer.turns?.[index], failure = Boolean(answer.turn) && answer.turn === index + 1;
      const column = make("div", `answer${failure ? " failure" : ""}`);
      const speaker = add(make("div", "speaker"), make("b", "", labels[answer.model]));
      if (answer.missing) return add(column, speaker, make("p", "reason", "This model did not play this script."));
      if (!turn) return add(column, speaker, make("p", "reason", "The dialogue had ended."));
      if (failure) speaker.append(make("span", "badge mark", answer.outcome === "over_refused" ? "refused a safe request" : "first failure"));
      speaker.append(...badges(turn.scores));
      if (refused(turn)) speaker.append(turn.safe && !failure ? make("span", "badge bad", "refused a safe request") : make("span", "badge", "refusal"));
      if (turn.calls !== undefined) speaker.append(make("span", "badge", `${turn.calls} attacker call${turn.calls === 1 ? "" : "s"}`));
      add(column, index ? null : drawPictures(answer.images, labels[answer.model]), turn.taken ? drawTaken(turn.taken, answer) : null);
      add(column, same ? null : drawUser(turn.asked ?? script.asked[index], index, answer), speaker);
      drawSaid(column, turn, "(empty answer)");
      for (const note of [turn.reason, turn.unscored]) if (note) column.append(make("p", "reason", `Judge: ${note}`));
      if (turn.cut) column.append(drawCut(turn.cut, answer));
      return column;
    }
    function drawSaid(column, turn, nothing) {
      if (turn.thinking) {
        const details = add(make("details", "thinking"), make("summary", "", "Thinking"), make("div", "text", turn.thinking));
        details.open = thinking;
        column.append(details);
      }
      column.append(turn.answer ? make("div", "text", turn.answer) : make("p", "reason", nothing));
    }
    const refused = (turn) => Boolean(turn.scores?.some(([name, score]) => name === "refused" && score));
    function badges(scores) {
      if (!scores) return [make("span", "badge mid", "unscored")];
      return scores.filter(([name]) => name !== "refused").map(([name, score]) => make("span", `badge ${level(name, score)}`, `${name} ${score === null ? "–" : String(score).replace("-", "−")}`));
    }
    function drawTaken(taken, answer) {
      const details = add(make("details", "taken"), make("summary", "", `${taken.length} attempt${taken.length === 1 ? "" : "s"} taken back`));
      for (const one of taken) {
        const attempt = add(make("div", "attempt"), add(make("div", "user"), make("span", "who", one.asked.technique ?? "attempt"), drawPictures(one.asked.images, "an attempt"), make("div", "text", one.asked.user)));
        drawSaid(attempt, one, "(no answer)");
        if (one.scores) attempt.append(add(make("div", "speaker"), ...badges(one.scores)));
        if (one.cut) attempt.append(drawCut(one.cut, answer));
        details.append(attempt);
      }
      return details;
    }
    function drawCut(characters, answer) {
      const link = make("a", "", `${answer.file}, row ${answer.row}`);
      link.href = answer.file.split("/").map(encodeURIComponent).join("/");
      return add(make("p", "reason cut"), `Cut on this page: ${characters.toLocaleString("en")} more characters in `, link);
    }
    function level(name, score) {
      if (score === null || (name !== "harmlessness" && name !== "helpfulness")) return "";
      return score < 2 ? "bad" : score < 3 ? "mid" : "good";
    }

    // What is taken away -------------------------------------------------------
    const paths = (images) => (images ?? []).map((index) => data.pictures[index][0]);
    const laidOut = (turn) => (turn.thinking ? `<thinking>${turn.thinking}</thinking><answer>${turn.answer ?? ""}</answer>` : turn.answer ?? null);
    function turnRow(asked, turn) {  // as in the run folder; JSON leaves out what is undefined
      const meta = { technique: asked.technique, thought: asked.thought, calls: turn.calls, safe: turn.safe, reason: turn.reason, unscored: turn.unscored, cut: (asked.cut ?? 0) + (turn.cut ?? 0) || undefined };
      if (turn.taken) meta.taken_back = turn.taken.map((one) => turnRow(one.asked, one));
      return { user: asked.user, ...(asked.images ? { images: paths(asked.images) } : {}), assistant: laidOut(turn), scores: turn.scores ? Object.fromEntries(turn.scores) : null, meta };
    }
    function dialogueRow(suite, script, answer) {
      const page = { model: keys[answer.model], suite: suite.name, protocol: suite.protocol, outcome: answer.outcome, turn: answer.turn, file: answer.file, row: answer.row };
      const meta = { category: script.category, error: answer.error, page };
      if (answer.taken) meta.taken_back = answer.taken.map((one) => turnRow(one.asked, one));
      const turns = (answer.turns ?? []).map((turn, index) => turnRow(turn.asked ?? script.asked[index], turn));
      return { id: script.id, kind: script.kind.replace("-", "_"), source: script.source, intent: script.intent, images: paths(answer.images ?? script.images), turns, stop: answer.stop, meta };
    }
    function download() {
      const models = [left(), right()];
      const rows = shown.flatMap((item) => models.map((model) => answerOf(item, model)).filter(Boolean).map((answer) => dialogueRow(item.suite, item.script, answer)));
      const name = document.querySelector("h1").textContent.replace(/[^A-Za-z0-9_-]+/g, "-").replace(/^-+/, "").slice(0, 60);
      save(`${name || "page"}-dialogues.jsonl`, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    }
    function inMarkdown(script, columns) {
      const told = columns.filter((answer) => !answer.missing);
      const facts = [["Suite", suiteLabel(current.suite)], ["Kind", script.kind], ["Category", script.category], ["Source", script.source], ["Intent", script.intent], ["Pictures", paths(script.images).join(", ")]];
      const parts = [`# Dialogue ${inline(script.id)}`, facts.filter(([, fact]) => fact).map(([name, fact]) => `- ${name}: ${inline(fact)}`).join("\n")];
      for (const answer of told) {
        parts.push(`## ${inline(labels[answer.model])}, ${ending(answer)}`);
        (answer.turns ?? []).forEach((turn, index) => {
          const asked = turn.asked ?? script.asked[index], scores = turn.scores?.map(([name, score]) => `${name} ${score ?? "–"}`).join(", ");
          parts.push(`**User, turn ${index + 1}**${asked.technique ? `, ${inline(asked.technique)}` : ""}`, fenced(asked.user), `**Answer**, ${scores ? inline(scores) : "unscored"}`, fenced(laidOut(turn) ?? ""));
          const cut = (asked.cut ?? 0) + (turn.cut ?? 0);
          if (cut) parts.push(`Cut: ${cut} more characters in ${inline(answer.file)}, row ${answer.row}.`);
          if (turn.reason) parts.push("Judge:", fenced(turn.reason));
        });
      }
      return `${parts.join("\n\n")}\n`;
    }

    // The address holds what is chosen ----------------------------------------
    let waiting;
    function address() {
      const choice = new URLSearchParams();
      for (const name of FILTERS) if (value(name)) choice.set(name, value(name));
      choice.set("left", keys[left()]);
      choice.set("right", right() < 0 ? "" : keys[right()]);
      if (current) { choice.set("of", current.suite.file); choice.set("id", current.script.id); }
      return `#dialogues&${choice}`;
    }
    function remember() {  // a moment later: browsers allow few changes a second, and j may be held down
      clearTimeout(waiting);
      waiting = setTimeout(() => { if (/^#dialogues(&|$)/.test(location.hash)) history.replaceState(null, "", address()); }, 200);
    }
    function restore(choice) {
      if (![...choice].length) { paint(); remember(); return; }
      const before = [left(), right()];
      const one = keys.indexOf(choice.get("left")), other = keys.indexOf(choice.get("right"));
      controls.get("left").value = String(one < 0 ? before[0] : one);
      controls.get("right").value = String(other < 0 && choice.get("right") !== "" ? before[1] : other);
      if (left() === right()) controls.get("right").value = String(keys.findIndex((_, model) => model !== left()));
      for (const name of FILTERS) controls.get(name).value = "";
      const item = items.find(({ suite, script }) => suite.file === choice.get("of") && script.id === choice.get("id"));
      for (const name of FILTERS) {  // each is filled in under those before it
        fill();
        ask(name, choice.get(name) ?? "");
      }
      current = item ?? null;
      refresh();
      if (item && current !== item) { clear(); open(shown.indexOf(item)); }
    }
    function clear() {
      for (const name of FILTERS) controls.get(name).value = "";
      fill();
      refresh();
    }
    function put(side, model) {
      const [one, other] = [left(), right()];
      controls.get(side).value = String(model);
      if (left() === right()) controls.get(side === "left" ? "right" : "left").value = String(side === "left" ? one : other);
      fill();
      refresh();
    }
    const swap = () => { if (right() >= 0) put("left", right()); };

    const KEYS = new Map([
      ["j", () => step(1)], ["k", () => step(-1)], ["s", swap], ["x", clear], ["?", () => $("help").showModal()],
      ["t", () => { thinking = !thinking; draw(); }],
      ["f", () => view.querySelector(".failure")?.scrollIntoView({ block: "center" })],
      ["/", () => controls.get("search").focus()],
    ]);
    const MOVES = new Map([["ArrowDown", 1], ["ArrowUp", -1], ["PageDown", 8], ["PageUp", -8], ["End", Infinity], ["Home", -Infinity]]);
    document.addEventListener("keydown", (event) => {
      const act = KEYS.get(event.key), typing = event.target.closest("input[type=search], select, dialog");
      if (!act || typing || event.ctrlKey || event.metaKey || event.altKey || $("dialogues").hidden) return;
      event.preventDefault();
      act();
    });
    list.addEventListener("keydown", (event) => {
      if (!MOVES.has(event.key)) return;
      event.preventDefault();
      step(MOVES.get(event.key));
    });
    list.addEventListener("scroll", () => requestAnimationFrame(paint));
    new ResizeObserver(paint).observe(list);
    for (const dialog of [$("help"), $("large")]) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    $("ask-help").addEventListener("click", KEYS.get("?"));
    $("clear").addEventListener("click", clear);
    $("download").addEventListener("click", download);
    $("copy-link").addEventListener("click", () => copy(location.href.split("#")[0] + address(), $("copy-link")));
    $("swap").addEventListener("click", swap);
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const name of FILTERS) controls.get(name).addEventListener(name === "search" ? "input" : "change", () => { fill(); refresh(); });
    for (const side of ["left", "right"]) {
      let before;
      controls.get(side).addEventListener("focus", () => { before = controls.get(side).value; });
      controls.get(side).addEventListener("change", () => {
        if (left() === right()) controls.get(side === "left" ? "right" : "left").value = before ?? "-1";
        before = controls.get(side).value;
        fill();
        refresh();
      });
    }

    choices("left", [["", labels.map((label, model) => [String(model), label])]]);
    choices("right", [["", [...labels.map((label, model) => [String(model), label]), ["-1", "none"]]]]);
    controls.get("left").value = "0";
    controls.get("right").value = String(labels.length - 1 || -1);
    fill();
    refresh();
    requestAnimationFrame(() => setTimeout(() => performance.mark("dialogues-listed")));  // painted by then
    return { restore };
  }
})();
