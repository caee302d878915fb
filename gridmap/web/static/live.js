// Keeps a page up to date: takes the parts that have changed and changes only what differs in
// them, so that focus, selection, scrolling and what is unfolded stay as they are.

const main = document.querySelector("main[data-events]");
const say = document.getElementById("say");
const link = document.getElementById("link");
const still = document.getElementById("still"); // for those without scripts
const OWN = new Set(["open"]); // of <details>: what the reader has unfolded

let source = null;
let waiting = {}; // parts that have to wait until nothing is selected in them

function sameKind(a, b) {
  return a && a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
}

function morph(before, after) {
  if (before.nodeType !== Node.ELEMENT_NODE) {
    if (before.data !== after.data) before.data = after.data;
    return;
  }
  for (const { name } of [...before.attributes]) {
    if (!OWN.has(name) && !after.hasAttribute(name)) before.removeAttribute(name);
  }
  for (const { name, value } of after.attributes) {
    if (!OWN.has(name) && before.getAttribute(name) !== value) before.setAttribute(name, value);
  }
  children(before, after);
}

function children(before, after) {
  let at = before.firstChild;
  for (const wanted of [...after.childNodes]) {
    if (at && wanted.id && !sameKind(at, wanted)) {
      const known = [...before.children].find((one) => one.id === wanted.id);
      if (known) {
        before.insertBefore(known, at);
        at = known;
      }
    }
    if (at && at.nodeType === Node.TEXT_NODE && !sameKind(at, wanted)) {
      const next = at.nextSibling;
      if (sameKind(next, wanted)) {
        at.remove(); // a mere space
        at = next;
      }
    }
    if (at && sameKind(at, wanted)) {
      morph(at, wanted);
      at = at.nextSibling;
    } else {
      before.insertBefore(document.importNode(wanted, true), at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function isSelected(element) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && selection.intersectsNode
    ? selection.intersectsNode(element)
    : Boolean(selection && !selection.isCollapsed && element.contains(selection.anchorNode));
}

function isConfirming(element) {
  const form = document.activeElement && document.activeElement.closest("form");
  return Boolean(form && element.contains(form));
}

function show(name, html) {
  const region = main.querySelector(`[data-region="${CSS.escape(name)}"]`);
  if (!region) return;
  if (isSelected(region) || isConfirming(region)) {
    waiting[name] = html;
    return;
  }
  delete waiting[name];
  const wanted = new DOMParser().parseFromString(html, "text/html").body;
  children(region, wanted);
}

function showWaiting() {
  for (const [name, html] of Object.entries(waiting)) show(name, html);
}

function tell(text) {
  link.textContent = text;
  link.hidden = !text;
}

function take(event) {
  tell("");
  still.hidden = true;
  const { title, say: words, ...regions } = JSON.parse(event.data);
  if (title) document.title = `${title} \u00b7 GridMap`;
  for (const [name, html] of Object.entries(regions)) show(name, html);
  if (words && say.textContent !== words) say.textContent = words;
}

function open() {
  if (source || !main) return;
  source = new EventSource(main.dataset.events);
  source.addEventListener("regions", take);
  source.addEventListener("gone", (event) => {
    close();
    tell(JSON.parse(event.data).text);
  });
  source.addEventListener("error", () => {
    tell("The dashboard does not answer; this page shows what it said last.");
    if (source && source.readyState === EventSource.CLOSED) close();
  });
}

function close() {
  if (source) source.close();
  source = null;
}

document.addEventListener("selectionchange", showWaiting);
document.addEventListener("focusout", () => setTimeout(showWaiting));
// a page that nobody looks at asks for nothing
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
window.addEventListener("pagehide", close);
window.addEventListener("pageshow", () => document.hidden || open());
