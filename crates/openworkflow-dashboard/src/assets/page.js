// What the page does beyond being read: it follows what is live, and listens to keys. All of it works without.
"use strict";

const live = document.getElementById("live");
const pulse = document.getElementById("pulse");

// Live: the stream says that something changed, and the page asks for itself anew.
let asking = false;
let again = false;

async function refresh() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const response = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!response.ok) {
      say("not up to date: reload the page");
    } else if (isBusy()) {
      setTimeout(refresh, 1000);
    } else {
      show(new DOMParser().parseFromString(await response.text(), "text/html"));
    }
  } catch {
    // The stream says that it is cut off.
  }
  asking = false;
  if (again) {
    again = false;
    refresh();
  }
}

// Nobody's typing, selection or click is taken away.
let isPressed = false;
live.addEventListener("pointerdown", () => (isPressed = true));
for (const over of ["pointerup", "pointercancel"]) {
  // The click comes after it.
  addEventListener(over, () => setTimeout(() => (isPressed = false)));
}

function isBusy() {
  const focused = document.activeElement;
  const isTyping = live.contains(focused) && focused.matches("input:not([type=checkbox]), select, textarea");
  const selection = getSelection();
  return isPressed || isTyping || (!selection.isCollapsed && live.contains(selection.anchorNode));
}

function show(page) {
  const fresh = page.getElementById("live");
  if (!fresh) return;
  const kept = keep();
  live.replaceChildren(...fresh.childNodes);
  document.title = page.title;
  kept();
  tell();
  mark();
}

// The step that the address names, which the browser forgets when its row is replaced.
function mark() {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    // It names nothing.
  }
  live.querySelector("tr.named")?.classList.remove("named");
  live.querySelector(`tr[id="${CSS.escape(id)}"]`)?.classList.add("named");
}

// What is open, scrolled and focused, to be so again.
function keep() {
  const checked = [...live.querySelectorAll(".fold input:checked")].map((box) => box.id);
  const open = [...live.querySelectorAll("details")].map((one) => one.open);
  const places = [...live.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.className]);
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  const href = focused?.getAttribute("href");
  const id = focused?.id;
  return () => {
    checked.forEach((box) => document.getElementById(box)?.setAttribute("checked", ""));
    live.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? false));
    live.querySelectorAll(".scroll").forEach((one, at) => {
      if (!places[at]) return;
      one.className = places[at][1];
      one.scrollLeft = places[at][0];
    });
    const same = id ? document.getElementById(id) : href && live.querySelector(`a[href="${CSS.escape(href)}"]`);
    same?.focus({ preventScroll: true });
  };
}

const say = (text) => (pulse.textContent = text);
let stream = null;
let isOver = !document.body.dataset.live;

function follow() {
  if (isOver || stream) return;
  stream = new EventSource(document.body.dataset.live);
  stream.onopen = () => say("● live");
  stream.onerror = () => {
    if (stream?.readyState !== EventSource.CLOSED) return say("○ reconnecting");
    stream = null;
    say("not live: reload the page");
  };
  stream.addEventListener("trouble", (event) => say("○ " + event.data));
  stream.addEventListener("changed", () => {
    say("● live");
    refresh();
  });
  stream.addEventListener("over", () => {
    isOver = true;
    leave();
    say("");
    refresh();
  });
}

function leave() {
  stream?.close();
  stream = null;
}

// A browser has six connections to a server, and a tab that nobody sees needs none of them.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return leave();
  if (!isOver) refresh();
  follow();
});
addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => event.persisted && follow());

// Times that are relative stay so.
function tell() {
  const now = Date.now();
  for (const time of live.querySelectorAll("time[data-relative]")) {
    const seconds = Math.round((now - Date.parse(time.dateTime)) / 1000);
    const text = roughly(Math.abs(seconds));
    time.textContent = seconds < 0 ? `in ${text}` : seconds < 1 ? "just now" : `${text} ago`;
  }
}

function roughly(seconds) {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

// Keys.
function move(by) {
  const rows = [...live.querySelectorAll("tr[data-row]")].filter((row) => row.offsetParent);
  if (rows.length === 0) return;
  const before = rows.indexOf(live.querySelector("tr.current"));
  const at = before < 0 ? (by > 0 ? 0 : rows.length - 1) : before + by;
  const row = rows[Math.min(Math.max(at, 0), rows.length - 1)];
  rows[before]?.classList.remove("current");
  row.classList.add("current");
  row.scrollIntoView({ block: "nearest" });
  row.querySelector("a")?.focus({ preventScroll: true });
}

function zoom(by) {
  const scroll = live.querySelector(".scroll:has(.waterfall)");
  if (!scroll) return;
  const now = Number(scroll.className.match(/zoom-(\d)/)?.[1] ?? 1);
  const next = Math.min(Math.max(now + by, 1), 4);
  const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
  scroll.className = next > 1 ? `scroll zoom-${next}` : "scroll";
  scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => document.getElementById("search").focus(),
  e: () => {
    const here = live.querySelector("[data-view][aria-current]")?.dataset.view;
    live.querySelector(`[data-view="${here === "executions" ? "" : "executions"}"]`)?.click();
  },
  t: () => document.getElementById("scale")?.click(),
  "+": () => zoom(1),
  "-": () => zoom(-1),
  "?": () => document.getElementById("keys").showModal(),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("input:not([type=checkbox]), select, textarea")) return;
  const act = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (act) {
    event.preventDefault();
    act();
  }
});

live.addEventListener("click", (event) => {
  const copied = event.target.closest("[data-copy]");
  if (copied && getSelection().isCollapsed) navigator.clipboard?.writeText(copied.textContent);
});

tell();
mark();
addEventListener("hashchange", mark);
setInterval(tell, 10000);
follow();
