// What the page does. Gradio runs this once with `element`, the page's root; `facts` stands before it.
const bus = (window.tickertape ??= new EventTarget());
const at = (id) => element.querySelector(`#tt-${id}`);
const audio = at("audio");
const rows = at("table").querySelector("tbody");
const canvas = at("wave");
let current = null; // the recording: { blob, name, url }
let run = 0; // the number of the last wish; answers to earlier ones are stale
let sending = null; // the upload under way
let answer = null; // the last answer to the last wish
let tongue = ""; // the language that the visitor has chosen, whatever the model
let recorder = null;
let asking = false; // whether the microphone may be used
let levels = null; // while recording: the loudness so far, from 0 to 100
let seen = 0; // when the last news came

// ---- what can be chosen -------------------------------------------------------------------------------------------

const model = () => facts.models.find((one) => one.name === at("model").value) ?? facts.models[0];
const here = (path) => new URL(path, location.href.split(/[?#]/)[0].replace(/\/?$/, "/"));
const key = () => at("key")?.value ?? "";
const task = () => element.querySelector("input[name=tt-task]:checked").value;

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function offer() {
  const known = model().languages.map((code) => [code, facts.languages[code] ?? code]);
  known.sort((left, right) => left[1].localeCompare(right[1]));
  const several = known.length > 1 ? [option("", "Detect automatically")] : [];
  at("language").replaceChildren(...several, ...known.map(([code, name]) => option(code, name)));
  if (model().languages.includes(tongue)) at("language").value = tongue;
  at("language").disabled = known.length < 2;
  at("model-name").textContent = model().name;
  at("task").hidden = !model().translates;
  if (!model().translates) element.querySelector("input[value=transcribe]").checked = true;
  showCode();
}

function size(bytes) {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GB` : `${Math.round(bytes / 2 ** 20)} MB`;
}

function span(seconds) {
  if (seconds >= 3600) return `${+(seconds / 3600).toFixed(1)} h`;
  return seconds >= 60 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds)} s`;
}

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// ---- saying things ------------------------------------------------------------------------------------------------

function say(text) {
  at("status").textContent = text;
}

function announce(text) {
  at("said").textContent = text;
  setTimeout(() => (at("said").textContent = ""), 3000);
}

function complain(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
  if (message) {
    if (answer) answer.state = "failed";
    say("");
    busy(false);
    if (!answer?.segments?.length) {
      at("tape").dataset.state = current ? "ready" : "idle";
      at("play").disabled = !current || (!!answer && !answer.duration); // what is no recording cannot be heard either
      at("empty").hidden = false;
    }
  }
}

function busy(working) {
  element.querySelector(".tt").dataset.busy = working ? "yes" : "no";
  at("stop").hidden = !working;
  at("output").setAttribute("aria-busy", String(working));
  at("again").disabled = working;
  at("again-field").hidden = !current;
  if (!working) progress(null);
}

function progress(share) {
  const bar = at("bar");
  bar.dataset.state = share === null ? "none" : share === undefined ? "unknown" : "known";
  if (typeof share === "number") {
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    bar.firstElementChild.style.width = `${100 * share}%`;
  } else bar.removeAttribute("aria-valuenow");
}

// ---- a recording --------------------------------------------------------------------------------------------------

function take(blob, name) {
  stopRecording(false);
  forget();
  current = { blob, name, url: URL.createObjectURL(blob) };
  audio.src = current.url;
  clear();
  showCode();
  ask();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const below = at("output").getBoundingClientRect().top > innerHeight / 2;
  if (below) at("output").scrollIntoView({ behavior: calm ? "instant" : "smooth" });
}

function forget() {
  audio.pause();
  if (current) URL.revokeObjectURL(current.url);
  current = null;
  leave();
}

function clear() {
  answer = null;
  rows.replaceChildren();
  at("table").hidden = true;
  at("empty").hidden = true;
  at("take").hidden = true;
  at("figures").hidden = true;
  at("notices").hidden = true;
  at("play").disabled = !current;
  at("length").textContent = "";
  at("now").textContent = "0:00";
  at("tape").dataset.state = current ? "ready" : "idle";
  complain("");
  draw();
}

function leave() {
  run += 1;
  sending?.abort();
  sending = null;
  if (answer && answer.state === "running") bus.dispatchEvent(new Event("leave"));
  busy(false);
}

function ask() {
  if (!current) return;
  leave();
  clear();
  if (current.blob.size > facts.bytes)
    return complain(`This file has ${size(current.blob.size)}; the limit is ${size(facts.bytes)}.`);
  if (!current.blob.size) return complain("The file is empty.");
  busy(true);
  progress(undefined);
  say("Sending …");
  const mine = run;
  const form = new FormData();
  form.append("file", current.blob, "recording"); // its name stays here
  sending = new XMLHttpRequest();
  sending.open("POST", here("recordings"));
  if (key()) sending.setRequestHeader("authorization", `Bearer ${key()}`);
  sending.responseType = "json";
  sending.upload.onprogress = (event) => {
    const share = event.loaded / event.total;
    if (mine === run && current.blob.size > 2 ** 21 && share < 1) say(`Sending … ${Math.round(100 * share)} %`);
  };
  sending.onerror = () => mine === run && complain("The server cannot be reached; is it running?");
  sending.onload = (event) => {
    if (mine !== run) return;
    const { status, response } = event.target;
    sending = null;
    if (status !== 200) return complain(response?.error?.message ?? `The server answered ${status}; try again later.`);
    say("Listening …");
    answer = { state: "running" };
    seen = performance.now();
    bus.dispatchEvent(new CustomEvent("wish", { detail: wish(mine, response.token) }));
  };
  sending.send(form);
}

function wish(mine, token) {
  return {
    token,
    run: mine,
    model: model().name,
    language: at("language").value,
    task: task(),
    words: at("words").checked,
    key: key(),
  };
}

// ---- the answer ---------------------------------------------------------------------------------------------------

bus.addEventListener("answer", ({ detail }) => {
  if (!detail || detail.run !== run || !detail.state) return;
  answer = detail;
  seen = performance.now();
  if (detail.duration) {
    at("length").textContent = ` / ${clock(detail.duration)}`;
    at("seek").max = detail.duration;
    at("seek").disabled = false;
    at("tape").dataset.state = "heard";
  }
  (detail.segments ?? []).slice(rows.children.length).forEach(addRow);
  draw();
  if (detail.state === "failed") return complain(detail.error.message);
  figures();
  if (detail.state === "done") return finish();
  progress(detail.done || undefined);
  say(detail.done ? `Transcribing … ${Math.round(100 * detail.done)} %` : "Transcribing …");
});

setInterval(async () => {
  if (answer?.state !== "running" || performance.now() - seen < 8000) return;
  const mine = run;
  const alive = await fetch(here("healthz")).then((response) => response.ok, () => false);
  if (!alive && mine === run) complain("The connection to the server is lost; transcribe again when it is back.");
}, 4000);

function figures() {
  if (!answer.factor) return;
  at("figures").hidden = false;
  at("factor").textContent = answer.factor.toFixed(answer.factor < 0.1 ? 3 : 2);
  at("factor").title = `${(1 / answer.factor).toFixed(1)} seconds of sound in a second`;
  at("took").textContent = answer.elapsed < 1 ? `${Math.round(1000 * answer.elapsed)} ms` : `${answer.elapsed.toFixed(1)} s`;
  at("spoken").parentElement.hidden = !answer.language;
  at("spoken").textContent = answer.language ?? "";
}

function finish() {
  busy(false);
  const count = answer.text ? answer.text.split(/\s+/).length : 0;
  say(count ? `${count} ${count === 1 ? "word" : "words"}, ${clock(answer.duration)} of audio` : "No speech was found in this recording.");
  at("take").hidden = !count;
  at("notices").hidden = !answer.notices.length;
  at("notices").textContent = answer.notices.join(" ");
  at("empty").hidden = true;
}

function addRow(segment) {
  const row = document.createElement("tr");
  const time = row.insertCell();
  const text = row.insertCell();
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = clock(segment.start);
  button.setAttribute("aria-label", `Play from ${clock(segment.start)}`);
  time.append(button);
  if (answer.channels > 1) {
    const speaker = document.createElement("b");
    speaker.textContent = `Speaker ${segment.channel + 1}`;
    text.append(speaker);
  }
  if (segment.words.length) segment.words.forEach((word, place) => text.append(place && /^\s/.test(word[2]) ? " " : "", spoken(word)));
  else text.append(segment.text);
  row.dataset.start = segment.start;
  row.dataset.end = segment.end;
  rows.append(row);
  at("table").hidden = false;
  const region = at("text");
  if (region.scrollHeight - region.scrollTop - region.clientHeight < 160) region.scrollTop = region.scrollHeight;
}

function spoken([start, end, text]) {
  const word = document.createElement("span");
  word.textContent = text.trim();
  word.dataset.start = start;
  word.dataset.end = end;
  return word;
}

// ---- hearing it ---------------------------------------------------------------------------------------------------

function hear(seconds) {
  audio.currentTime = seconds;
  audio.play().catch(() => announce("Your browser cannot play this format; the text is complete all the same."));
}

rows.addEventListener("click", (event) => {
  if (String(getSelection())) return; // somebody selects text
  const place = event.target.closest("span[data-start]") ?? event.target.closest("tr");
  if (place) hear(Number(place.dataset.start));
});

at("play").addEventListener("click", () => (audio.paused ? hear(audio.ended ? 0 : audio.currentTime) : audio.pause()));
at("seek").addEventListener("input", () => {
  audio.currentTime = Number(at("seek").value);
  follow();
});

audio.addEventListener("loadedmetadata", () => {
  if (audio.duration !== Infinity) return;
  audio.currentTime = 1e7; // what a browser has recorded lacks a length until its end has been looked for
  audio.addEventListener("durationchange", () => (audio.currentTime = 0), { once: true });
});

for (const name of ["play", "pause", "ended"])
  audio.addEventListener(name, () => {
    at("tape").dataset.playing = audio.paused ? "no" : "yes";
    at("play").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    if (!audio.paused) requestAnimationFrame(beat);
    else follow();
  });
audio.addEventListener("seeked", follow);

function beat() {
  follow();
  if (!audio.paused) requestAnimationFrame(beat);
}

function within(place, now) {
  return Number(place.dataset.start) <= now && now < Number(place.dataset.end);
}

function follow() {
  const now = audio.currentTime;
  if (now > 1e6) return;
  at("now").textContent = clock(now);
  at("seek").value = now;
  at("seek").setAttribute("aria-valuetext", clock(now));
  draw();
  const listening = now > 0 || !audio.paused;
  for (const row of rows.children) {
    const here = listening && within(row, now);
    if (here !== row.classList.contains("tt-here")) {
      row.classList.toggle("tt-here", here);
      if (here && !audio.paused) row.scrollIntoView({ block: "nearest" });
      if (!here) for (const word of row.querySelectorAll(".tt-here")) word.classList.remove("tt-here");
    }
    if (here) for (const word of row.querySelectorAll("span")) word.classList.toggle("tt-here", within(word, now));
  }
}

// ---- the tape -----------------------------------------------------------------------------------------------------

function draw() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colours = getComputedStyle(canvas);
  const count = Math.max(1, Math.floor(width / 5));
  const bars = levels ? levels.slice(-count) : squeeze(answer?.peaks ?? [], count);
  const idle = at("tape").dataset.state === "idle";
  const length = answer?.duration || 1;
  const heard = levels ? 1 : (audio.currentTime < 1e6 ? audio.currentTime : 0) / length;
  for (let n = 0; n < count; n += 1) {
    const quiet = idle ? 22 * Math.abs(Math.sin(n * 0.37) * Math.sin(n * 0.071)) : 0;
    const loud = Math.max(3, quiet, ((bars[n] ?? 0) / 100) * (height - 8));
    const passed = levels ? n < bars.length : n / count < heard;
    pen.fillStyle = colours.getPropertyValue(passed ? (levels ? "--tt-live" : "--tt-accent") : "--tt-bar");
    pen.beginPath();
    pen.roundRect(n * 5 + 1, (height - loud) / 2, 3, loud, 1.5);
    pen.fill();
  }
}

function squeeze(peaks, count) {
  if (!peaks.length) return [];
  return Array.from({ length: count }, (_, n) => {
    const from = Math.floor((n * peaks.length) / count);
    const to = Math.max(from + 1, Math.floor(((n + 1) * peaks.length) / count));
    return Math.max(...peaks.slice(from, to));
  });
}

// ---- the microphone -----------------------------------------------------------------------------------------------

async function startRecording() {
  if (asking) return;
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder)
    return complain("Browsers allow the microphone only over HTTPS or on localhost. A file can be chosen all the same.");
  let stream;
  asking = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const absent = error.name === "NotFoundError";
    return complain(absent ? "No microphone was found." : "The microphone is not allowed here; the browser's address bar can change that.");
  } finally {
    asking = false;
  }
  forget();
  clear();
  at("empty").hidden = false;
  const kind = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg"].find((name) => MediaRecorder.isTypeSupported(name));
  const mine = { recorder: new MediaRecorder(stream, kind ? { mimeType: kind } : {}), stream, pieces: [] };
  recorder = mine;
  mine.recorder.ondataavailable = (event) => event.data.size && mine.pieces.push(event.data);
  mine.recorder.onstop = () => {
    if (!mine.wanted) return; // a file was chosen instead
    const type = mine.recorder.mimeType || "audio/webm";
    const ending = type.includes("mp4") ? "m4a" : type.includes("ogg") ? "ogg" : "webm";
    take(new Blob(mine.pieces, { type }), `recording.${ending}`);
  };
  mine.recorder.start(250);
  listen(mine);
  at("record").dataset.state = "on";
  at("record").querySelector("span").textContent = "Stop and transcribe";
  at("tape").dataset.state = "recording";
  say("Recording …");
}

function listen(mine) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(mine.stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const start = performance.now();
  levels = [];
  mine.timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    levels.push(Math.min(100, 110 * Math.max(...samples.map(Math.abs))));
    const seconds = (performance.now() - start) / 1000;
    at("now").textContent = clock(seconds);
    at("record").querySelector("span").textContent = `Stop and transcribe · ${clock(seconds)}`;
    draw();
    if (seconds >= facts.seconds) stopRecording(true);
  }, 80);
  mine.context = context;
}

function stopRecording(wanted) {
  if (!recorder) return;
  const mine = recorder;
  mine.wanted = wanted;
  recorder = null;
  levels = null;
  clearInterval(mine.timer);
  mine.context.close();
  if (mine.recorder.state !== "inactive") mine.recorder.stop();
  mine.stream.getTracks().forEach((track) => track.stop());
  at("record").dataset.state = "off";
  at("record").querySelector("span").textContent = "Record";
}

at("record").addEventListener("click", () => (recorder ? stopRecording(true) : startRecording()));

// ---- files and examples -------------------------------------------------------------------------------------------

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
  event.target.value = "";
});

// Anywhere in the window: where nobody takes it, a browser opens a dropped file in the page's stead.
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
for (const name of ["dragenter", "dragover"])
  window.addEventListener(name, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    at("drop").dataset.over = "yes";
  });
window.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").dataset.over = "no";
});
window.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  at("drop").dataset.over = "no";
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
});

function title(file) {
  const words = file.replace(/\.\w+$/, "").replaceAll("-", " ");
  return words[0].toUpperCase() + words.slice(1);
}

for (const example of facts.examples) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [name, kind] = [document.createElement("span"), document.createElement("small")];
  name.textContent = title(example);
  kind.textContent = example.split(".").pop();
  button.type = "button";
  button.append(name, kind);
  button.addEventListener("click", async () => {
    try {
      const response = await fetch(here(`examples/${example}`));
      if (!response.ok) throw new Error(response.statusText);
      take(await response.blob(), example);
    } catch {
      complain("The example cannot be fetched; is the server running?");
    }
  });
  item.append(button);
  at("examples").querySelector("ul").append(item);
}

// ---- taking it along ----------------------------------------------------------------------------------------------

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // outside HTTPS there is no other way
    area.value = text;
    element.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.dataset.name ??= button.textContent; // which a second press must not mistake
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (button.textContent = button.dataset.name), 1500);
}

at("copy").addEventListener("click", () => copy(answer.text, at("copy")));

for (const button of element.querySelectorAll("[data-download]"))
  button.addEventListener("click", () => {
    const kind = button.dataset.download;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([answer.files[kind]], { type: kind === "json" ? "application/json" : "text/plain" }));
    link.download = `${(current?.name ?? "recording").replace(/\.\w+$/, "")}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

// ---- the same from code -------------------------------------------------------------------------------------------

function base() {
  return new URL(location.pathname.replace(/(\/page)?\/*$/, "/v1"), location.origin).href;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// What the page itself asks for. `standard` is what OpenAI's clients know of the endpoint; the rest are our extensions.
function fields() {
  const translating = task() === "translate";
  const language = at("language").value;
  const named = language ? [["language", language]] : [];
  const words = at("words").checked;
  return {
    endpoint: translating ? "translations" : "transcriptions",
    standard: [["model", model().name], ...(translating ? [] : named), ["response_format", "verbose_json"]],
    granularities: words && !translating ? ["segment", "word"] : [],
    extensions: translating ? [...named, ...(words ? [["word_timestamps", "true"]] : [])] : [],
  };
}

function curl() {
  const { endpoint, standard, granularities, extensions } = fields();
  const file = current?.name ?? "recording.wav";
  const plain = /^[\w.-]+$/.test(file) ? `file=@${file}` : quoted(`file=@"${file.replace(/["\\]/g, "\\$&")}"`);
  const lines = [
    `curl ${base()}/audio/${endpoint}`,
    ...(facts.keys ? ['-H "Authorization: Bearer $TICKERTAPE_KEY"'] : []),
    `-F ${plain}`,
    ...[...standard, ...extensions].map(([name, value]) => `-F ${name}=${value}`),
    ...granularities.map((name) => `-F 'timestamp_granularities[]=${name}'`),
  ];
  return lines.join(" \\\n  ");
}

function python() {
  const { endpoint, standard, granularities, extensions } = fields();
  const given = standard.map(([name, value]) => `        ${name}=${JSON.stringify(value)},`);
  const others = extensions.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return [
    "import os",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base()}", api_key=${facts.keys ? 'os.environ["TICKERTAPE_KEY"]' : '"none"'})`,
    `with open(${JSON.stringify(current?.name ?? "recording.wav")}, "rb") as file:`,
    `    answer = client.audio.${endpoint}.create(`,
    "        file=file,",
    ...given,
    ...(granularities.length ? ['        timestamp_granularities=["segment", "word"],'] : []),
    ...(others.length ? [`        extra_body={${others.join(", ")}},`] : []),
    "    )",
    "print(answer.text)",
  ]
    .slice(facts.keys ? 0 : 1)
    .join("\n");
}

const tabs = { curl: at("tab-curl"), python: at("tab-python") };
let shown = "curl";

function showCode() {
  at("snippet").textContent = shown === "curl" ? curl() : python();
  at("snippet").setAttribute("aria-labelledby", `tt-tab-${shown}`);
  for (const [name, tab] of Object.entries(tabs)) {
    tab.setAttribute("aria-selected", String(name === shown));
    tab.tabIndex = name === shown ? 0 : -1;
  }
}

for (const [name, tab] of Object.entries(tabs)) {
  tab.addEventListener("click", () => {
    shown = name;
    showCode();
  });
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    shown = name === "curl" ? "python" : "curl";
    showCode();
    tabs[shown].focus();
  });
}
at("copy-code").addEventListener("click", () => copy(at("snippet").textContent, at("copy-code")));

// ---- beginning ----------------------------------------------------------------------------------------------------

function showTheme() {
  const dark = document.body.classList.contains("dark");
  at("theme").setAttribute("aria-pressed", String(dark));
  at("theme").querySelector("span").textContent = dark ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  draw();
}

at("theme").addEventListener("click", () => {
  document.body.classList.toggle("dark");
  showTheme();
});
at("model").replaceChildren(...facts.models.map((one) => option(one.name, one.name)));
at("model").addEventListener("change", offer);
at("language").addEventListener("change", () => (tongue = at("language").value));
for (const name of ["language", "words", "task"]) at(name).addEventListener("change", showCode);
at("again").addEventListener("click", ask);
at("stop").addEventListener("click", () => {
  leave();
  say("Stopped.");
  if (answer) answer.state = "stopped";
  if (!rows.children.length) at("empty").hidden = false;
});
at("model-field").hidden = facts.models.length < 2;
if (!facts.keys) at("key-field").remove();
at("docs").hidden = !facts.docs;
at("examples").hidden = !facts.examples.length;
at("limits").textContent = `WAV, MP3, M4A, OGG, FLAC, WebM and more, up to ${size(facts.bytes)} or ${span(facts.seconds)}.`;
new ResizeObserver(draw).observe(canvas);
new MutationObserver(showTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
offer();
busy(false);
at("tape").dataset.state = "idle";
showTheme();
