// Visits the page in a real browser. Gets what it needs to know as JSON in the first argument, and ends with
// an error where something is not as it should be.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const given = JSON.parse(process.argv[2]);
const { base, runs } = given;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const browser = await puppeteer.launch({
  executablePath: given.browser.path,
  args: given.browser.args,
  headless: "shell",
});
const troubles = [];
const allowed = new Set();

async function open(path, { width = 1280, height = 800, scheme = "light", script = true } = {}) {
  const page = await browser.newPage();
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.setJavaScriptEnabled(script);
  page.on("pageerror", (error) => troubles.push(`script: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !allowed.has(message.text())) troubles.push(`console: ${message.text()}`);
  });
  page.on("dialog", (dialog) => {
    troubles.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(base)) troubles.push(`asks elsewhere: ${request.url()}`);
  });
  await page.goto(base + path, { waitUntil: "load" });
  return page;
}

const text = (page, selector) => page.$eval(selector, (one) => one.innerText);
const texts = (page, selector) => page.$$eval(selector, (all) => all.map((one) => one.innerText));
const follow = (page, selector) => Promise.all([page.waitForNavigation({ waitUntil: "load" }), page.locator(selector).click()]);
const until = (page, selector, wanted) =>
  page.waitForFunction((selector, wanted) => document.querySelector(selector)?.innerText.includes(wanted), { timeout: 60_000 }, selector, wanted);

async function accessible(page, where) {
  // The page's policy lets no script in that is not its own, so the checker comes by the debugger.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.slice(0, 3).map((node) => node.html).join("\n  ")}`);
  assert.deepEqual(told, [], where);
}

async function fits(page, where) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= room, `${where} is ${wide} wide, and there is room for ${room}`);
}

const visits = {
  async list() {
    const page = await open("/runs");
    assert.ok((await texts(page, "table.runs tbody tr")).length >= 4);
    await follow(page, 'nav[aria-label="By status"] a:nth-child(5)');
    assert.equal(new URL(page.url()).search, "?status=failed");
    const failed = await texts(page, "table.runs tbody tr");
    assert.equal(failed.length, 3);
    assert.match(failed[2], /CardDeclined: the card was declined/);
    await page.type("#search", "was declined");
    await follow(page, ".filters button");
    assert.match(page.url(), /status=failed&.*q=was\+declined/);
    assert.equal((await texts(page, "table.runs tbody tr")).length, 1);
    await follow(page, "td.id a");
    assert.ok(page.url().endsWith(`/runs/${runs.failed}`));
    assert.match(await text(page, "h1"), /charge-card/);
    await follow(page, "h1 a");
    assert.match(await text(page, "main"), /CardDeclined: the card was declined/);
    assert.match(await text(page, "section[aria-labelledby=steps]"), /authorize/);
    // By its id, from anywhere.
    await page.type("#search", runs.order);
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
    assert.deepEqual(await texts(page, "table.runs td.id"), [runs.order]);
  },

  async picture() {
    const page = await open(`/runs/${runs.order}`);
    // The first error is on the screen without a click, and what came next.
    assert.match(await text(page, ".failures"), /MailServerDown: the mail server does not answer/);
    assert.match(await text(page, ".failures"), /Tried again/);
    const rows = await texts(page, ".waterfall tr[data-row]:not(.deep) th a");
    assert.deepEqual(rows, ["validate-order", "fulfill-shipment", "confirmed:4711", "cooldown", "notify-customer"]);
    // The child's steps are folded, and unfold.
    const deep = () => page.$$eval("tr.deep", (rows) => rows.filter((row) => row.offsetParent).length);
    assert.equal(await deep(), 0);
    await page.click(".fold input");
    assert.equal(await deep(), 2);
    // Keys.
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    assert.match(await text(page, "tr.current"), /fulfill-shipment/);
    await page.keyboard.press("+");
    assert.ok(await page.$(".zoom-2"));
    await Promise.all([page.waitForNavigation(), page.keyboard.press("e")]);
    assert.match(page.url(), /view=executions/);
    assert.ok((await texts(page, "tr[data-row]")).length >= 4);
    await Promise.all([page.waitForNavigation(), page.keyboard.press("t")]);
    assert.match(page.url(), /scale=true/);
    await page.keyboard.press("?");
    assert.ok(await page.$("dialog[open]"));
    // A link to a step.
    const linked = await open(`/runs/${runs.order}#step=cooldown`);
    assert.match(await text(linked, "tr:target"), /cooldown/);
    // Links to where traces are, and nothing of payloads.
    assert.equal(await linked.$eval(".facts a[target=_blank]", (link) => link.href), `http://localhost:16686/trace/${given.trace}`);
    for (const view of ["steps", "events", "executions"]) {
      const shown = await open(`/runs/${runs.order}?view=${view}`);
      assert.ok((await texts(shown, "tbody tr")).length >= 4, view);
      assert.doesNotMatch(await shown.content(), /ada@example\.com/);
    }
  },

  async without_script() {
    const page = await open(`/runs/${runs.order}`, { script: false });
    const html = await page.content();
    assert.match(html, /MailServerDown/);
    await page.click(".fold input");
    const folded = await page.$eval("tr.deep", (row) => getComputedStyle(row).display).catch(() => "unknown");
    assert.notEqual(folded, "none");
  },

  // A run waits. One tab watches it, another sends it the signal, and the first sees it end.
  async live() {
    const watching = await open(`/runs/${runs.waiting}`);
    await until(watching, "#pulse", "live");
    assert.match(await text(watching, ".standing"), /waits for go/);
    await watching.evaluate(() => (globalThis.unloaded = false));
    await watching.locator(".standing a").click();
    await watching.waitForSelector("tr.named");
    const list = await open("/runs?workflow=patient");
    const acting = await open(`/runs/${runs.waiting}`);
    await follow(acting, ".title .button:not(.danger)");
    assert.equal(await acting.$eval("#signal", (input) => input.value), "go");
    allowed.add("Failed to load resource: the server responded with a status of 400 (Bad Request)");
    await acting.type("#data", "{broken");
    await follow(acting, "button.primary");
    assert.match(await text(acting, ".notice"), /no JSON/);
    assert.equal(await acting.$eval("#data", (input) => input.value), "{broken");
    await acting.$eval("#data", (input) => (input.value = '"now"'));
    await follow(acting, "button.primary");
    assert.ok(acting.url().endsWith(`/runs/${runs.waiting}`));
    await until(watching, ".title .status", "completed");
    await until(list, "tbody", "completed");
    assert.equal(await watching.evaluate(() => globalThis.unloaded), false, "without loading the page anew");
    assert.match(await text(watching, ".waterfall"), /after/);
    assert.match(await text(watching, "tr.named"), /go/);
  },

  async cancel() {
    const watching = await open(`/runs/${runs.canceled}`);
    await until(watching, "#pulse", "live");
    const acting = await open(`/runs/${runs.canceled}`);
    await follow(acting, ".title .danger");
    assert.match(await text(acting, "main"), /ends as canceled for good/);
    await follow(acting, "button.danger");
    await until(acting, ".title .status", "canceled");
    await until(watching, ".title .status", "canceled");
    assert.equal(await watching.$(".title .danger"), null);
  },

  async again() {
    const page = await open("/start");
    await page.type("#workflow", "charge-card");
    await page.type("#input", '"tok-again"');
    await follow(page, "button.primary");
    await until(page, ".title .status", "failed");
    const failed = page.url();
    await follow(page, ".title .again");
    assert.match(await text(page, "main"), /results of all completed steps are taken over/);
    await accessible(page, "run again");
    await follow(page, "button.primary");
    assert.notEqual(page.url(), failed);
    await until(page, ".title .status", "failed");
    assert.match(await text(page, ".facts"), /Made of.*resumed/s);
    await follow(page, ".facts a");
    assert.equal(page.url(), failed);
    assert.match(await text(page, ".facts"), /Run again as/);
  },

  async start() {
    const page = await open("/start");
    await page.type("#workflow", "charge-card");
    await page.type("#input", '"tok-secret"');
    await follow(page, "button.primary");
    await until(page, ".title .status", "failed");
    assert.doesNotMatch(page.url(), /tok-secret/);
    assert.doesNotMatch(await page.content(), /tok-secret/);
  },

  async thousand() {
    const page = await open(`/runs/${runs.thousand}`);
    assert.ok((await page.$$("tr[data-row]")).length <= 40);
    assert.match(await text(page, ".waterfall"), /charge\b.*×900/s);
    await follow(page, ".fold-note a");
    assert.equal((await page.$$("tr[data-row]")).length, 900);
    for (let pressed = 0; pressed < 50; pressed++) await page.keyboard.press("j");
    assert.match(await text(page, "tr.current"), /charge:49\b/);
  },

  async hostile() {
    for (const view of ["", "?view=executions", "?view=steps", "?view=events"]) {
      const page = await open(`/runs/${runs.hostile}${view}`);
      assert.match(await text(page, "main"), /<script>/);
      await fits(page, `hostile ${view}`);
    }
    for (const path of ["/", "/runs", `/runs/${runs.large}`, `/runs/${runs.large}?view=events`]) {
      const page = await open(path);
      await fits(page, path);
      const html = await page.content();
      assert.ok(html.length < 400_000, `${path} has ${html.length} characters`);
      assert.doesNotMatch(html, /[\u001b\u202e]/);
    }
  },

  async accessible() {
    const paths = ["/", "/workflows/charge-card", "/runs", "/start", "/signal", `/runs/${runs.order}`, `/runs/${runs.order}?view=executions`, `/runs/${runs.order}?view=steps`, `/runs/${runs.order}?view=events`, `/runs/${runs.waiting}`, `/runs/${runs.waiting}/cancel`, "/runs?q=none", "/runs/none"];
    allowed.add("Failed to load resource: the server responded with a status of 404 (Not Found)");
    for (const scheme of ["light", "dark"]) {
      for (const path of paths) {
        const page = await open(path, { scheme });
        await accessible(page, `${path} ${scheme}`);
        await page.close();
      }
    }
  },

  async phone() {
    for (const path of ["/", "/runs", "/workflows/charge-card", "/start", `/runs/${runs.order}`, `/runs/${runs.order}?view=events`]) {
      const page = await open(path, { width: 390 });
      await fits(page, path);
      await accessible(page, `${path} on a phone`);
      await page.close();
    }
  },

  async typescript() {
    const parcel = await open(`/runs/${runs.parcel}`);
    assert.match(await text(parcel, ".title"), /ts-parcel\s+✓ completed/);
    assert.deepEqual(await texts(parcel, ".waterfall tr[data-row]:not(.deep) th a"), ["weigh", "ts-label", "hand-over"]);
    assert.match(await text(parcel, ".failures"), /TypeError: nobody is at the door/);
    assert.match(await text(parcel, ".waterfall"), /ok, 2 tries/);
    await parcel.click(".fold input");
    assert.match(await text(parcel, "tr.deep"), /print/);
    const lost = await open(`/runs/${runs.lost}`);
    assert.match(await text(lost, ".failures"), /RangeError: it is nowhere/);
    await accessible(lost, "a run of TypeScript");
    const list = await open("/runs?workflow=ts-lost");
    assert.match(await text(list, "tbody"), /failed/);
  },

  async dark() {
    const shade = async (scheme) => {
      const page = await open("/runs", { scheme });
      return page.$eval("html", (html) => getComputedStyle(html).backgroundColor);
    };
    const [light, dark] = [await shade("light"), await shade("dark")];
    const bright = (color) => color.match(/\d+/g).map(Number).reduce((sum, part) => sum + part);
    assert.ok(bright(light) > 600 && bright(dark) < 150, `${light} and ${dark}`);
  },

  async pictures() {
    const shots = [
      ["dashboard-run", `/runs/${runs.order}`, 1280, "light"],
      ["dashboard-run-dark", `/runs/${runs.order}`, 1280, "dark"],
      ["dashboard-overview", "/", 1280, "light"],
      ["dashboard-phone", `/runs/${runs.order}`, 390, "light"],
    ];
    for (const [name, path, width, scheme] of shots) {
      const page = await open(path, { width, scheme, height: width < 500 ? 844 : 800 });
      await page.click(".fold input").catch(() => {});
      await page.mouse.move(0, 0);
      await page.screenshot({ path: `${given.images}/${name}.png`, optimizeForSpeed: false });
      await page.close();
    }
  },
};

try {
  await visits[given.visit]();
  assert.deepEqual(troubles, []);
} finally {
  await browser.close();
}
