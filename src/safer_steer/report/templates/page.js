"use strict";
// Every text of a model or a data set goes in by textContent. Lists and Maps, no objects keyed by ids: an id may be "__proto__".
(() => {
  const data = JSON.parse(document.getElementById("data-json").textContent);
  if (!data.suites.length) return;
  const $ = (id) => document.getElementById(id);
  const label = new Map(data.labels);
  const OUTCOMES = new Map([
    ["held", "held"], ["gave_way", "gave way"], ["answered", "answered"], ["over_refused", "over-refused"], ["unscored", "unscored"],
    ["failed", "failed"], ["incomplete", "incomplete"],
  ]);
  const SIGN = new Map([
    ["held", "✓"], ["answered", "✓"], ["gave_way", "✕"], ["over_refused", "⊘"], ["unscored", "?"], ["failed", "!"], ["incomplete", "…"],
  ]);
  const controls = { suite: $("suite"), model: $("model"), outcome: $("outcome"), search: $("search") };
  const list = $("list"), view = $("dialogue");
  let shown = [], current = null, thinking = true, compare = true;

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }
  function add(parent, ...children) { parent.append(...children.filter(Boolean)); return parent; }
  function choices(select, pairs) {
    const before = select.value;
    select.replaceChildren(...pairs.map(([value, text]) => { const option = make("option", "", text); option.value = value; return option; }));
    if (pairs.some(([value]) => value === before)) select.value = before;
  }

  const suite = () => data.suites[Number(controls.suite.value)];
  const answerOf = (dialogue, model) => dialogue.answers.find((answer) => answer.model === model);
  const chosen = (dialogue) => answerOf(dialogue, controls.model.value);
  const differs = (dialogue) => new Set(dialogue.answers.map((answer) => answer.outcome)).size > 1;
  function ending(answer) {
    const at = answer.turn ? `, turn ${answer.turn}` : "";
    return OUTCOMES.get(answer.outcome) + at;
  }

  function fillModels() {
    choices(controls.model, data.models.filter((model) => suite().dialogues.some((dialogue) => answerOf(dialogue, model))).map((model) => [model, label.get(model)]));
  }
  function fillOutcomes() {
    const mine = suite().dialogues.filter(chosen);
    const count = (test) => mine.filter(test).length;
    const pairs = [["all", `all (${mine.length})`]];
    for (const [value, text] of OUTCOMES) {
      const many = count((dialogue) => chosen(dialogue).outcome === value);
      if (many) pairs.push([value, `${text} (${many})`]);
    }
    if (data.models.length > 1) pairs.push(["differs", `models differ (${count(differs)})`]);
    choices(controls.outcome, pairs);
  }
  function matches(dialogue, words) {
    if (!words) return true;
    const turns = dialogue.answers.flatMap((answer) => answer.turns.flatMap((turn) => [turn.user, turn.answer]));
    return [dialogue.id, dialogue.intent, ...turns].some((text) => text.toLowerCase().includes(words));
  }

  function refresh() {
    const want = controls.outcome.value, words = controls.search.value.trim().toLowerCase();
    shown = suite().dialogues.filter((dialogue) => {
      const answer = chosen(dialogue);
      if (!answer || !matches(dialogue, words)) return false;
      return want === "all" || (want === "differs" ? differs(dialogue) : answer.outcome === want);
    });
    list.replaceChildren(...shown.map((dialogue) => add(make("li"), entry(dialogue))));
    const { total, dialogues } = suite();
    const cut = total > dialogues.length ? ` The page holds ${dialogues.length} of the suite's ${total} dialogues, drawn by a hash of their ids; the rest are in the run folder.` : "";
    $("status").textContent = `${shown.length} of ${dialogues.length} dialogues shown.${cut}`;
    mark();
  }
  function entry(dialogue) {
    const button = make("button");
    button.type = "button";
    const ends = make("span", "ends");
    for (const answer of dialogue.answers) {
      const end = make("span", `end ${answer.outcome}`, `${SIGN.get(answer.outcome)} ${label.get(answer.model)}${answer.turn ? ` ${answer.turn}` : ""}`);
      end.title = `${label.get(answer.model)}: ${ending(answer)}`;
      ends.append(end);
    }
    const first = dialogue.answers[0].turns[0];
    add(button, make("span", "id", dialogue.id), make("span", "first", dialogue.intent || (first ? first.user : "")), ends);
    button.addEventListener("click", () => { open(dialogue); arrive(); });
    return button;
  }
  function mark() {
    [...list.querySelectorAll("button")].forEach((button, place) => button.setAttribute("aria-current", String(shown[place] === current)));
  }
  function arrive() {
    if (matchMedia("(max-width: 820px)").matches) { view.focus({ preventScroll: true }); view.scrollIntoView({ block: "start" }); }
  }

  function open(dialogue) {
    current = dialogue;
    mark();
    draw();
    history.replaceState(null, "", `#dialogue=${encodeURIComponent(JSON.stringify([suite().name, dialogue.id, controls.model.value]))}`);
  }
  function draw() {
    const dialogue = current, one = chosen(dialogue) || dialogue.answers[0];
    const answers = compare ? dialogue.answers : [one];
    const length = Math.max(...answers.map((answer) => answer.turns.length));
    const turns = Array.from({ length }, (_, index) => drawTurn(answers, index, one));
    view.replaceChildren(drawTop(dialogue), ...turns);
  }
  function drawTop(dialogue) {
    const pictures = drawPictures(dialogue.images, "the dialogue");
    const title = make("h3", "id", dialogue.id);
    title.id = "dialogue-id";
    const about = add(make("div", "about"), title, make("p", "note", [dialogue.kind.replace("_", "-"), dialogue.source, dialogue.safe ? "safe script" : ""].filter(Boolean).join(" · ")));
    if (dialogue.intent) about.append(add(make("p"), make("span", "who", "Intent"), make("span", "text", dialogue.intent)));
    for (const answer of dialogue.answers) {
      const stop = answer.stop && answer.stop !== "completed" ? ` (stopped: ${answer.stop.replace(/_/g, " ")}${answer.error ? `, ${answer.error}` : ""})` : "";
      about.append(add(make("p"), make("b", "", label.get(answer.model)), " ", make("span", `end ${answer.outcome}`, `${SIGN.get(answer.outcome)} ${ending(answer)}`), stop));
    }
    if (dialogue.answers.length > 1) about.append(toggle("Side by side", compare, (on) => { compare = on; draw(); }));
    if (dialogue.answers.some((answer) => answer.turns.some((turn) => turn.thinking))) about.append(toggle("Thinking", thinking, (on) => { thinking = on; draw(); }));
    return add(make("div", "top"), ...pictures, about);
  }
  function drawPictures(images, owner) {
    return images.map((image, place) => {
      if (image.index === null) return make("p", "absent", `Picture not on this page: ${image.path}`);
      const picture = make("img");
      picture.src = data.pictures[image.index];
      picture.alt = `Picture ${place + 1} of ${owner}`;
      picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth < 128));
      return picture;
    });
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
  function drawTurn(answers, index, one) {
    const asked = answers.map((answer) => answer.turns[index]).filter(Boolean);
    const same = new Set(asked.map((turn) => JSON.stringify([turn.user, turn.images]))).size === 1;
    const block = make("section", "turn");
    block.setAttribute("aria-label", `Turn ${index + 1}`);
    if (same) block.append(drawUser(asked[0], index));
    const columns = make("div", `columns of-${Math.min(answers.length, 4)}`);
    for (const answer of answers) {
      const failure = answer.turn === index + 1;
      const column = make("div", `answer${answer === one && answers.length > 1 ? " chosen" : ""}${failure ? " failure" : ""}`);
      drawAnswer(column, answer, index, failure, same);
      columns.append(column);
    }
    return add(block, columns);
  }
  function drawUser(turn, index) {
    const shown = drawPictures(turn.images || [], `turn ${index + 1}`);
    const said = add(make("div", "user"), make("span", "who", `User, turn ${index + 1}`));
    if (shown.length) said.append(add(make("div", "shown"), ...shown));
    return add(said, make("div", "text", turn.user));
  }
  function drawAnswer(column, answer, index, failure, same) {
    const turn = answer.turns[index];
    const speaker = add(make("div", "speaker"), make("b", "", label.get(answer.model)));
    column.append(speaker);
    if (!turn) { column.append(make("p", "reason", "The dialogue had ended.")); return; }
    if (failure) speaker.append(make("span", "badge mark", answer.outcome === "over_refused" ? "refused a safe request" : "first failure"));
    for (const [name, value] of turn.scores) speaker.append(make("span", `badge ${level(name, value)}`, `${name} ${value === null ? "–" : String(value).replace("-", "−")}`));
    if (turn.refused) speaker.append(turn.safe && !failure ? make("span", "badge bad", "refused a safe request") : make("span", "badge", "refusal"));
    if (!turn.scores.length) speaker.append(make("span", "badge mid", "unscored"));
    if (!same) column.append(drawUser(turn, index));
    if (turn.thinking) {
      const details = add(make("details", "thinking"), make("summary", "", "Thinking"), make("div", "text", turn.thinking));
      details.open = thinking;
      column.append(details);
    }
    column.append(turn.answer ? make("div", "text", turn.answer) : make("p", "reason", "(empty answer)"));
    for (const note of [turn.reason, turn.unscored]) if (note) column.append(make("p", "reason", `Judge: ${note}`));
    if (turn.cut) column.append(drawCut(turn.cut, answer));
  }
  function drawCut(characters, answer) {
    const link = make("a", "", `${answer.file}, row ${answer.row}`);
    link.href = answer.file.split("/").map(encodeURIComponent).join("/");
    return add(make("p", "reason cut"), `Cut on this page: ${characters.toLocaleString("en")} more characters in `, link);
  }
  function level(name, value) {
    if (value === null) return "";
    if (name === "harmlessness") return value < 2 ? "bad" : value < 3 ? "mid" : "good";
    if (name === "helpfulness") return value < 2 ? "bad" : value < 3 ? "mid" : "good";
    return "";
  }

  function changed(what) {
    if (what === "suite") fillModels();
    if (what !== "outcome") fillOutcomes();
    refresh();
    if (what === "model" && current && shown.includes(current)) open(current);
    else if (shown.length && !shown.includes(current)) open(shown[0]);
    else if (!shown.length) { current = null; view.replaceChildren(make("p", "empty", "No dialogue fits this choice.")); }
  }
  function follow() {
    // #dialogue=["suite","id","model"]: the address of one dialogue, to be passed on.
    let wanted;
    try { wanted = JSON.parse(decodeURIComponent(location.hash.replace(/^#dialogue=/, ""))); } catch { return false; }
    if (!Array.isArray(wanted)) return false;
    const place = data.suites.findIndex((each) => each.name === wanted[0]);
    const dialogue = place < 0 ? undefined : data.suites[place].dialogues.find((each) => each.id === wanted[1]);
    if (!dialogue) return false;
    controls.suite.value = String(place);
    fillModels();
    if (answerOf(dialogue, wanted[2])) controls.model.value = wanted[2];
    fillOutcomes();
    controls.outcome.value = "all";
    refresh();
    open(dialogue);
    list.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest" });
    $("dialogues").scrollIntoView();
    return true;
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const buttons = [...list.querySelectorAll("button")], place = buttons.indexOf(document.activeElement) + step;
    if (!step || !buttons[place]) return;
    event.preventDefault();
    buttons[place].focus();
    open(shown[place]);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const [name, control] of Object.entries(controls)) control.addEventListener(name === "search" ? "input" : "change", () => changed(name));
  choices(controls.suite, data.suites.map((each, place) => [String(place), `${each.name} (${each.total})`]));
  fillModels();
  controls.model.value = data.models.at(-1);
  if (!controls.model.value) controls.model.selectedIndex = 0;
  fillOutcomes();
  refresh();
  if (!follow() && shown.length) { current = shown[0]; mark(); draw(); }
})();
