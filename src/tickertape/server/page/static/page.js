// The page's behaviour. Gradio runs this once with `element`, the root of the page; `facts` is defined before it.
const bus = (window.tickertape ??= new EventTarget());
const at = (id) => element.querySelector(`#tt-${id}`);
const audio = at("audio");
const rows = at("table").querySelector("tbody");
const canvas = at("wave");
let current = null; // the recording: { blob, name, url }
let run = 0; // the number of the last request; updates of earlier ones are ignored
let sending = null; // the upload in progress
let transcription = null; // everything received about the current transcription
let chosenLanguage = ""; // kept when another model is selected
let recorder = null;
let asking = false; // whether the browser asks for permission to use the microphone
let levels = null; // while recording: the loudness so far, from 0 to 100
let received = 0; // segments of the transcription that have arrived
let seen = 0; // when the last update arrived

// ---- models and languages ------------------------------------------------------------------------------------------

const selectedModel = () => facts.models.find((one) => one.name === at("model").value) ?? facts.models[0];
const url = (path) => new URL(path, location.href.split(/[?#]/)[0].replace(/\/?$/, "/"));
const apiKey = () => at("key")?.value ?? "";
const selectedTask = () => element.querySelector("input[name=tt-task]:checked").value;

function optionElement(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function showModel() {
  const known = selectedModel().languages.map((code) => [code, facts.languages[code] ?? code]);
  known.sort((left, right) => left[1].localeCompare(right[1]));
  const several = known.length > 1 ? [optionElement("", "Detect automatically")] : [];
  at("language").replaceChildren(...several, ...known.map(([code, name]) => optionElement(code, name)));
  if (selectedModel().languages.includes(chosenLanguage)) at("language").value = chosenLanguage;
  at("language").disabled = known.length < 2;
  at("model-name").textContent = selectedModel().name;
  at("task").hidden = !selectedModel().translates;
  if (!selectedModel().translates) element.querySelector("input[value=transcribe]").checked = true;
  showCode();
}

function formatBytes(bytes) {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GB` : `${Math.round(bytes / 2 ** 20)} MB`;
}

function formatSeconds(seconds) {
  if (seconds >= 3600) return `${+(seconds / 3600).toFixed(1)} h`;
  return seconds >= 60 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds)} s`;
}

function formatClock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// ---- status and errors ---------------------------------------------------------------------------------------------

function showStatus(text) {
  at("status").textContent = text;
}

function announce(text) {
  at("said").textContent = text;
  setTimeout(() => (at("said").textContent = ""), 3000);
}

function showError(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
  if (message) {
    if (transcription) transcription.state = "failed";
    showStatus("");
    setBusy(false);
    if (!rows.children.length) {
      at("tape").dataset.state = current ? "ready" : "idle";
      at("play").disabled = !current || (!!transcription && !transcription.duration); // a file that is not audio cannot be played
      at("empty").hidden = false;
    }
  }
}

function setBusy(working) {
  element.querySelector(".tt").dataset.busy = working ? "yes" : "no";
  at("stop").hidden = !working;
  at("output").setAttribute("aria-busy", String(working));
  at("again").disabled = working;
  at("again-field").hidden = !current;
  if (!working) showProgress(null);
}

function showProgress(share) {
  const bar = at("bar");
  bar.dataset.state = share === null ? "none" : share === undefined ? "unknown" : "known";
  if (typeof share === "number") {
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    bar.firstElementChild.style.width = `${100 * share}%`;
  } else bar.removeAttribute("aria-valuenow");
}

// ---- a recording ---------------------------------------------------------------------------------------------------

function loadRecording(blob, name) {
  stopRecording(false);
  unloadRecording();
  current = { blob, name, url: URL.createObjectURL(blob) };
  audio.src = current.url;
  clear();
  showCode();
  transcribe();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const below = at("output").getBoundingClientRect().top > innerHeight / 2;
  if (below) at("output").scrollIntoView({ behavior: calm ? "instant" : "smooth" });
}

function unloadRecording() {
  audio.pause();
  if (current) URL.revokeObjectURL(current.url);
  current = null;
  cancel();
}

function clear() {
  transcription = null;
  received = 0;
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
  showError("");
  drawWaveform();
}

function cancel() {
  run += 1;
  sending?.abort();
  sending = null;
  if (transcription && transcription.state === "running") bus.dispatchEvent(new Event("cancel"));
  setBusy(false);
}

function transcribe() {
  if (!current) return;
  cancel();
  clear();
  if (current.blob.size > facts.bytes)
    return showError(`This file has ${formatBytes(current.blob.size)}; the limit is ${formatBytes(facts.bytes)}.`);
  if (!current.blob.size) return showError("The file is empty.");
  setBusy(true);
  showProgress(undefined);
  showStatus("Uploading …");
  const mine = run;
  const form = new FormData();
  form.append("file", current.blob, "recording"); // the server does not receive the file's name
  sending = new XMLHttpRequest();
  sending.open("POST", url("recordings"));
  if (apiKey()) sending.setRequestHeader("authorization", `Bearer ${apiKey()}`);
  sending.responseType = "json";
  sending.upload.onprogress = (event) => {
    const share = event.loaded / event.total;
    if (mine === run && current.blob.size > 2 ** 21 && share < 1) showStatus(`Uploading … ${Math.round(100 * share)} %`);
  };
  sending.onerror = () => mine === run && showError("The server cannot be reached; try again later.");
  sending.onload = (event) => {
    if (mine !== run) return;
    const { status, response } = event.target;
    sending = null;
    if (status !== 200) return showError(response?.error?.message ?? `The server answered ${status}; try again later.`);
    showStatus("Decoding …");
    transcription = { state: "running" };
    seen = performance.now();
    bus.dispatchEvent(new CustomEvent("request", { detail: submission(mine, response.token) }));
  };
  sending.send(form);
}

function submission(mine, token) {
  return {
    token,
    run: mine,
    model: selectedModel().name,
    language: at("language").value,
    task: selectedTask(),
    words: at("words").checked,
    key: apiKey(),
  };
}

// ---- updates from the server ---------------------------------------------------------------------------------------

bus.addEventListener("update", ({ detail }) => {
  if (!detail || detail.run !== run || !detail.state) return;
  transcription = { ...transcription, ...detail };
  seen = performance.now();
  if (detail.duration) {
    at("length").textContent = ` / ${formatClock(detail.duration)}`;
    at("seek").max = detail.duration;
    at("seek").disabled = false;
    at("tape").dataset.state = "heard";
  }
  for (const [index, segment] of Object.entries(detail.segments ?? {})) {
    if (index >= received) addRow(segment);
    received = Math.max(received, Number(index) + 1);
  }
  drawWaveform();
  if (detail.state === "failed") return showError(detail.error.message);
  showFigures();
  if (detail.state === "done") return showResult();
  showProgress(detail.done || undefined);
  showStatus(detail.done ? `Transcribing … ${Math.round(100 * detail.done)} %` : "Transcribing …");
});

setInterval(async () => {
  if (transcription?.state !== "running" || performance.now() - seen < 8000) return;
  const mine = run;
  const alive = await fetch(url("healthz")).then((response) => response.ok, () => false);
  if (!alive && mine === run) showError("The connection to the server was lost; try again later.");
}, 4000);

function showFigures() {
  if (!transcription.factor) return;
  at("figures").hidden = false;
  at("factor").textContent = transcription.factor.toFixed(transcription.factor < 0.1 ? 3 : 2);
  at("factor").title = `${(1 / transcription.factor).toFixed(1)} seconds of sound in a second`;
  at("took").textContent = transcription.elapsed < 1 ? `${Math.round(1000 * transcription.elapsed)} ms` : `${transcription.elapsed.toFixed(1)} s`;
  at("spoken").parentElement.hidden = !transcription.language;
  at("spoken").textContent = transcription.language ?? "";
}

function showResult() {
  setBusy(false);
  if (rows.children.length !== transcription.count) {
    rows.replaceChildren(); // the browser has skipped a message
    segmentsOf(JSON.parse(transcription.files.json)).forEach(addRow);
  }
  const count = transcription.text ? transcription.text.split(/\s+/).length : 0;
  showStatus(count ? `${count} ${count === 1 ? "word" : "words"}, ${formatClock(transcription.duration)} of audio` : "No speech was found in this recording.");
  at("take").hidden = !count;
  at("notices").hidden = !transcription.notices.length;
  at("notices").textContent = transcription.notices.join(" ");
  at("empty").hidden = true;
}

// The segments of a whole transcript, each with its words.
function segmentsOf({ segments, words = [] }) {
  const contains = (segment, word) => segment.channel === word.channel && segment.start <= word.start && word.end <= segment.end;
  return segments.map((segment) => ({
    ...segment,
    text: segment.text.trim(),
    words: words.filter((word) => contains(segment, word)).map(({ start, end, word }) => [start, end, ` ${word}`]),
  }));
}

function addRow(segment) {
  const row = document.createElement("tr");
  const time = row.insertCell();
  const text = row.insertCell();
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = formatClock(segment.start);
  button.setAttribute("aria-label", `Play from ${formatClock(segment.start)}`);
  time.append(button);
  if (transcription.channels > 1) {
    const speaker = document.createElement("b");
    speaker.textContent = `Speaker ${segment.channel + 1}`;
    text.append(speaker);
  }
  if (segment.words.length) segment.words.forEach((word, place) => text.append(place && /^\s/.test(word[2]) ? " " : "", wordElement(word)));
  else text.append(segment.text);
  row.dataset.start = segment.start;
  row.dataset.end = segment.end;
  rows.append(row);
  at("table").hidden = false;
  const region = at("text");
  if (region.scrollHeight - region.scrollTop - region.clientHeight < 160) region.scrollTop = region.scrollHeight;
}

function wordElement([start, end, text]) {
  const word = document.createElement("span");
  word.textContent = text.trim();
  word.dataset.start = start;
  word.dataset.end = end;
  return word;
}

// ---- playback ------------------------------------------------------------------------------------------------------

function playFrom(seconds) {
  audio.currentTime = seconds;
  audio.play().catch(() => announce("Your browser cannot play this format; the transcript is complete."));
}

rows.addEventListener("click", (event) => {
  if (String(getSelection())) return; // the user selects text
  const place = event.target.closest("span[data-start]") ?? event.target.closest("tr");
  if (place) playFrom(Number(place.dataset.start));
});

at("play").addEventListener("click", () => (audio.paused ? playFrom(audio.ended ? 0 : audio.currentTime) : audio.pause()));
at("seek").addEventListener("input", () => {
  audio.currentTime = Number(at("seek").value);
  highlight();
});

audio.addEventListener("loadedmetadata", () => {
  if (audio.duration !== Infinity) return;
  audio.currentTime = 1e7; // recordings of a browser have no duration until it has searched for their end
  audio.addEventListener("durationchange", () => (audio.currentTime = 0), { once: true });
});

for (const name of ["play", "pause", "ended"])
  audio.addEventListener(name, () => {
    at("tape").dataset.playing = audio.paused ? "no" : "yes";
    at("play").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
    if (!audio.paused) requestAnimationFrame(highlightContinuously);
    else highlight();
  });
audio.addEventListener("seeked", highlight);

function highlightContinuously() {
  highlight();
  if (!audio.paused) requestAnimationFrame(highlightContinuously);
}

function within(place, now) {
  return Number(place.dataset.start) <= now && now < Number(place.dataset.end);
}

function highlight() {
  const now = audio.currentTime;
  if (now > 1e6) return;
  at("now").textContent = formatClock(now);
  at("seek").value = now;
  at("seek").setAttribute("aria-valuetext", formatClock(now));
  drawWaveform();
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

// ---- waveform ------------------------------------------------------------------------------------------------------

function drawWaveform() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colours = getComputedStyle(canvas);
  const count = Math.max(1, Math.floor(width / 5));
  const bars = levels ? levels.slice(-count) : resample(transcription?.peaks ?? [], count);
  const idle = at("tape").dataset.state === "idle";
  const length = transcription?.duration || 1;
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

function resample(peaks, count) {
  if (!peaks.length) return [];
  return Array.from({ length: count }, (_, n) => {
    const from = Math.floor((n * peaks.length) / count);
    const to = Math.max(from + 1, Math.floor(((n + 1) * peaks.length) / count));
    return Math.max(...peaks.slice(from, to));
  });
}

// ---- the microphone ------------------------------------------------------------------------------------------------

async function startRecording() {
  if (asking) return;
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder)
    return showError("Browsers allow the microphone only over HTTPS or on localhost. Choose a file instead.");
  let stream;
  asking = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const absent = error.name === "NotFoundError";
    return showError(absent ? "No microphone was found." : "The microphone is blocked for this page; allow it in the browser's address bar.");
  } finally {
    asking = false;
  }
  unloadRecording();
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
    loadRecording(new Blob(mine.pieces, { type }), `recording.${ending}`);
  };
  mine.recorder.start(250);
  showLevels(mine);
  at("record").dataset.state = "on";
  at("record").querySelector("span").textContent = "Stop and transcribe";
  at("tape").dataset.state = "recording";
  showStatus("Recording …");
}

function showLevels(mine) {
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
    at("now").textContent = formatClock(seconds);
    at("record").querySelector("span").textContent = `Stop and transcribe · ${formatClock(seconds)}`;
    drawWaveform();
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

// ---- files and examples --------------------------------------------------------------------------------------------

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) loadRecording(file, file.name);
  event.target.value = "";
});

// Accept a dropped file anywhere in the window; otherwise the browser would open it instead of the page.
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
  if (file) loadRecording(file, file.name);
});

function exampleTitle(file) {
  const words = file.replace(/\.\w+$/, "").replaceAll("-", " ");
  return words[0].toUpperCase() + words.slice(1);
}

for (const example of facts.examples) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const [name, kind] = [document.createElement("span"), document.createElement("small")];
  name.textContent = exampleTitle(example);
  kind.textContent = example.split(".").pop();
  button.type = "button";
  button.append(name, kind);
  button.addEventListener("click", async () => {
    try {
      const response = await fetch(url(`examples/${example}`));
      if (!response.ok) throw new Error(response.statusText);
      loadRecording(await response.blob(), example);
    } catch {
      showError("The example cannot be loaded; try again later.");
    }
  });
  item.append(button);
  at("examples").querySelector("ul").append(item);
}

// ---- copy and download ---------------------------------------------------------------------------------------------

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // navigator.clipboard exists only over HTTPS
    area.value = text;
    element.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.dataset.name ??= button.textContent; // the label may already be "Copied"
  button.textContent = "Copied";
  announce("Copied");
  clearTimeout(button.resetTimer); // a second click shows "Copied" for the full time again
  button.resetTimer = setTimeout(() => (button.textContent = button.dataset.name), 1500);
}

at("copy").addEventListener("click", () => copyText(transcription.text, at("copy")));

for (const button of element.querySelectorAll("[data-download]"))
  button.addEventListener("click", () => {
    const kind = button.dataset.download;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([transcription.files[kind]], { type: kind === "json" ? "application/json" : "text/plain" }));
    link.download = `${(current?.name ?? "recording").replace(/\.\w+$/, "")}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

// ---- code snippets -------------------------------------------------------------------------------------------------

function baseUrl() {
  return new URL(location.pathname.replace(/(\/page)?\/*$/, "/v1"), location.origin).href;
}

const shellQuoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// The form fields that the page sends. `standard` fields are OpenAI's for the endpoint; the others are extensions.
function requestFields() {
  const translating = selectedTask() === "translate";
  const language = at("language").value;
  const named = language ? [["language", language]] : [];
  const words = at("words").checked;
  return {
    endpoint: translating ? "translations" : "transcriptions",
    standard: [["model", selectedModel().name], ...(translating ? [] : named), ["response_format", "verbose_json"]],
    granularities: words && !translating ? ["segment", "word"] : [],
    extensions: translating ? [...named, ...(words ? [["word_timestamps", "true"]] : [])] : [],
  };
}

function curlCode() {
  const { endpoint, standard, granularities, extensions } = requestFields();
  const file = current?.name ?? "recording.wav";
  const plain = /^[\w.-]+$/.test(file) ? `file=@${file}` : shellQuoted(`file=@"${file.replace(/["\\]/g, "\\$&")}"`);
  const lines = [
    `curl ${baseUrl()}/audio/${endpoint}`,
    ...(facts.keys ? ['-H "Authorization: Bearer $TICKERTAPE_KEY"'] : []),
    `-F ${plain}`,
    ...[...standard, ...extensions].map(([name, value]) => `-F ${name}=${value}`),
    ...granularities.map((name) => `-F 'timestamp_granularities[]=${name}'`),
  ];
  return lines.join(" \\\n  ");
}

function pythonCode() {
  const { endpoint, standard, granularities, extensions } = requestFields();
  const given = standard.map(([name, value]) => `        ${name}=${JSON.stringify(value)},`);
  const others = extensions.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return [
    "import os",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${baseUrl()}", api_key=${facts.keys ? 'os.environ["TICKERTAPE_KEY"]' : '"none"'})`,
    `with open(${JSON.stringify(current?.name ?? "recording.wav")}, "rb") as file:`,
    `    transcription = client.audio.${endpoint}.create(`,
    "        file=file,",
    ...given,
    ...(granularities.length ? ['        timestamp_granularities=["segment", "word"],'] : []),
    ...(others.length ? [`        extra_body={${others.join(", ")}},`] : []),
    "    )",
    "print(transcription.text)",
  ]
    .slice(facts.keys ? 0 : 1)
    .join("\n");
}

const tabs = { curl: at("tab-curl"), python: at("tab-python") };
let shown = "curl";

function showCode() {
  at("snippet").textContent = shown === "curl" ? curlCode() : pythonCode();
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
at("copy-code").addEventListener("click", () => copyText(at("snippet").textContent, at("copy-code")));

// ---- start ---------------------------------------------------------------------------------------------------------

function showTheme() {
  const dark = document.body.classList.contains("dark");
  at("theme").setAttribute("aria-pressed", String(dark));
  at("theme").querySelector("span").textContent = dark ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", dark ? "Use light colours" : "Use dark colours");
  drawWaveform();
}

at("theme").addEventListener("click", () => {
  document.body.classList.toggle("dark");
  showTheme();
});
at("model").replaceChildren(...facts.models.map((one) => optionElement(one.name, one.name)));
at("model").addEventListener("change", showModel);
at("language").addEventListener("change", () => (chosenLanguage = at("language").value));
for (const name of ["language", "words", "task"]) at(name).addEventListener("change", showCode);
at("again").addEventListener("click", transcribe);
at("stop").addEventListener("click", () => {
  cancel();
  showStatus("Stopped.");
  if (transcription) transcription.state = "stopped";
  if (!rows.children.length) at("empty").hidden = false;
});
at("model-field").hidden = facts.models.length < 2;
if (!facts.keys) at("key-field").remove();
at("docs").hidden = !facts.docs;
at("examples").hidden = !facts.examples.length;
at("limits").textContent = `WAV, MP3, M4A, OGG, FLAC, WebM and more, up to ${formatBytes(facts.bytes)} or ${formatSeconds(facts.seconds)}.`;
new ResizeObserver(drawWaveform).observe(canvas);
new MutationObserver(showTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
showModel();
setBusy(false);
at("tape").dataset.state = "idle";
showTheme();
