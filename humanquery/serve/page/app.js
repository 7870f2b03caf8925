// The page: what is given goes to the service, what comes back is drawn and listed.

import { colorOf, genderOf, identityOf, paint } from "./people.js";
import { save, table } from "./files.js";

const at = (id) => document.getElementById(id);
const SWITCHES = ["boxes", "masks", "joints", "labels", "faces"];
const KEYS = { b: "boxes", m: "masks", j: "joints", l: "labels", f: "faces" };
const LARGER = 2; // times that a small picture is shown at, at most
const TALLEST = 0.7; // of the window, so that a whole person is seen at once
const TRIES = 4; // while the service says that it is busy

let model = { outputs: [], skeleton: null, limits: {} };
let result = null; // {name, answer, frames, picture or video, width, height}
let now = 0; // the frame that is shown
let lit = null; // the row that is highlighted
let running = null; // the request that is under way
let last = null; // what was given, for another try with a key
let stream = null; // of the camera

// ---- asking

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({ message: `${answer.status}` }));
  const wait = Number(answer.headers.get("Retry-After")) || 0;
  throw Object.assign(new Error(said.message), { status: answer.status, wait });
}

async function learn() {
  model = await ask("v1/model");
  at("model").textContent = model.name && `Model: ${model.name}.`;
  const megabytes = Math.floor(model.limits.max_bytes / 1e6);
  at("limits").textContent =
    `At most ${megabytes} MB; clips of at most ${model.limits.max_frames} frames.`;
}

async function look(blob, name) {
  running?.abort();
  const mine = (running = new AbortController());
  last = { blob, name };
  complain("");
  at("key").hidden = true;
  const isClip = blob.type.startsWith("video/");
  const begun = performance.now();
  try {
    if (!model.limits.max_bytes) await learn();
    if (blob.size > model.limits.max_bytes)
      throw new Error(`${name} has ${(blob.size / 1e6).toFixed(1)} MB, more than the service ` +
        "takes; choose a smaller one");
    busy(isClip ? "Following everybody through the clip …" : "Looking …");
    const picture = await (isClip ? openClip(blob) : openPicture(blob, name));
    const answer = await patiently(isClip, blob, name, mine.signal);
    if (mine.signal.aborted) return;
    const frames = isClip ? answer.frames : [answer];
    if (!frames.length) throw new Error(`${name} has no frame that can be read`);
    show({ name, answer, frames, isClip, picture });
    busy("", `Done in ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  } catch (problem) {
    if (mine.signal.aborted) return;
    busy("");
    if (problem.status === 401) {
      at("key").hidden = false;
      at("secret").focus();
    } else if (problem instanceof TypeError) complain("The service does not answer. Is it running?");
    else complain(problem.message);
  }
}

async function patiently(isClip, blob, name, signal) {
  const masks = model.outputs.includes("masks");
  const faces = model.outputs.includes("keypoints") || model.outputs.includes("face_boxes");
  const path = `v1/${isClip ? "clip" : "picture"}?masks=${masks}&faces=${faces}`;
  for (let tries = 1; ; tries++) {
    const body = new FormData();
    body.append("file", blob, name);
    try {
      return await ask(path, { method: "POST", body, signal });
    } catch (problem) {
      if (problem.status !== 503 || !problem.wait || tries === TRIES) throw problem;
      busy(`The service is busy; asking again in ${problem.wait} s …`);
      await new Promise((done) => setTimeout(done, 1000 * problem.wait));
      if (signal.aborted) throw problem;
    }
  }
}

async function openPicture(blob, name) {
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Error(`${name}: this browser cannot show it; give a JPEG, PNG or WebP`);
  }
}

function openClip(blob) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, playsInline: true, preload: "auto" });
  return new Promise((done) => {
    video.onloadeddata = () => done(video);
    video.onerror = () => done(null); // people are shown on a plain ground then
    video.src = URL.createObjectURL(blob);
  });
}

// ---- showing

function show(found) {
  stopPlaying();
  if (result?.isClip && result.picture) URL.revokeObjectURL(result.picture.src);
  result = found;
  const [height, width] = found.frames[0].image_size;
  Object.assign(result, { width, height });
  const can = (field) => found.frames.some((f) => f.persons.some((p) => p[field]));
  for (const [name, field] of [["masks", "mask"], ["joints", "keypoints"], ["faces", "face"]])
    at(name).disabled = !can(field);
  at("player").hidden = !found.isClip;
  at("seek").max = found.frames.length - 1;
  at("play").disabled = !found.picture;
  at("result").hidden = false;
  fit();
  if (found.isClip && !found.picture)
    complain("This browser cannot play the clip; its people are shown on plain ground.");
  showFrame(0, true);
}

// as many px as the screen has there: the PNG is as large as the picture
function fit() {
  const { width, height } = result;
  const room = at("stage").clientWidth / width;
  const scale = Math.min(room, (TALLEST * innerHeight) / height, LARGER);
  const canvas = at("canvas");
  canvas.style.width = `${Math.round(width * scale)}px`;
  canvas.width = Math.max(1, Math.round(width * scale * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(height * scale * devicePixelRatio));
}

function showFrame(index, seek = false) {
  now = index;
  lit = null;
  at("seek").value = index;
  const frame = result.frames[index];
  at("when").textContent = result.isClip ? `${frame.seconds.toFixed(2)} s` : "";
  const video = result.picture;
  if (result.isClip && video && seek) {
    video.onseeked = draw;
    video.currentTime = frame.seconds + 0.001; // a hair later: rounding must not show the one before
  }
  list(frame);
  draw();
}

function list(frame) {
  const count = frame.persons.length;
  const people = `${count} ${count === 1 ? "person" : "people"}`;
  at("count").textContent = !count ? "Nobody was found." : result.isClip
    ? `${people} in this frame, ${result.answer.identities} in the clip` : people;
  at("people").replaceChildren(...frame.persons.map((person, row) => {
    const line = document.createElement("tr");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colorOf(identityOf(person, row));
    const [x1, y1, x2, y2] = person.box;
    const words = [`${person.track_id ?? row + 1}`, person.score.toFixed(2),
      genderOf(person) || "–", person.age == null ? "–" : person.age.toFixed(0),
      `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)}`];
    for (const word of words) line.insertCell().textContent = word;
    line.cells[0].prepend(swatch);
    line.tabIndex = 0;
    line.onmouseenter = line.onfocus = () => highlight(row);
    line.onmouseleave = line.onblur = () => highlight(null);
    return line;
  }));
}

function highlight(row) {
  if (lit === row) return;
  lit = row;
  [...at("people").rows].forEach((line, i) => line.classList.toggle("lit", i === row));
  draw();
}

function shown() {
  return Object.fromEntries(SWITCHES.map((name) => [name, at(name).checked]));
}

function draw() {
  if (!result) return;
  const canvas = at("canvas");
  const people = result.frames[now].persons;
  const ground = result.picture ?? plain(canvas);
  const look = { ...shown(), scale: canvas.width / result.width, ink: devicePixelRatio, lit };
  paint(canvas.getContext("2d"), ground, people, model, look);
}

function plain({ width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#30363d";
  context.fillRect(0, 0, width, height);
  return canvas;
}

// the person under the pointer, the smallest where several are
function under(event) {
  const canvas = at("canvas");
  const frame = canvas.getBoundingClientRect();
  const scale = result.width / frame.width;
  const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
  let [best, least] = [null, Infinity];
  result.frames[now].persons.forEach(({ box: [x1, y1, x2, y2] }, row) => {
    const area = (x2 - x1) * (y2 - y1);
    if (x >= x1 && x < x2 && y >= y1 && y < y2 && area < least) [best, least] = [row, area];
  });
  return best;
}

// ---- clips

function play() {
  const video = result.picture;
  if (!video.paused) return stopPlaying();
  at("play").textContent = "Pause";
  if (now === result.frames.length - 1) video.currentTime = 0;
  video.onended = stopPlaying;
  video.onseeked = null;
  video.play();
  const step = () => {
    if (result.picture !== video || video.paused) return;
    let index = result.frames.findIndex((f) => f.seconds > video.currentTime + 0.001);
    index = (index < 0 ? result.frames.length : index) - 1;
    showFrame(Math.max(index, 0));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function stopPlaying() {
  at("play").textContent = "Play";
  if (result?.isClip) result.picture?.pause();
}

// ---- giving

function give(file) {
  if (!file) return;
  if (!/^(image|video)\//.test(file.type))
    return complain(`${file.name || "That"} is neither a photo nor a clip.`);
  closeCamera();
  look(file, file.name || "picture");
}

async function openCamera() {
  complain("");
  if (!navigator.mediaDevices)
    return complain("The browser lends its camera only to pages of https or of this machine.");
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
  } catch (problem) {
    return complain(problem.name === "NotAllowedError"
      ? "The camera was not allowed." : `No camera can be used (${problem.message}).`);
  }
  at("preview").srcObject = stream;
  at("live").hidden = false;
  await at("preview").play();
  at("shoot").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("live").hidden = true;
}

function shoot() {
  const video = at("preview");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => look(blob, "camera.jpg"), "image/jpeg", 0.92);
}

// ---- taking away

function stem() {
  return (result.name || "people").replace(/\.[^.]*$/, "");
}

function savePicture() {
  const { width, height, picture } = result;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const ground = picture ?? plain(canvas);
  const look = { ...shown(), scale: 1, ink: 1, lit: null };
  paint(canvas.getContext("2d"), ground, result.frames[now].persons, model, look);
  canvas.toBlob((blob) => save(`${stem()}_people.png`, blob));
}

function busy(text, done = "") {
  at("status").textContent = text || done;
  at("status").classList.toggle("busy", Boolean(text));
}

function complain(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

// ---- what happens when

at("file").onchange = (event) => {
  give(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
};
at("camera").onclick = openCamera;
at("shoot").onclick = shoot;
at("leave").onclick = closeCamera;
at("key").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("secret").value);
  at("secret").value = "";
  if (last) look(last.blob, last.name);
  else start();
};
SWITCHES.forEach((name) => (at(name).onchange = draw));
at("canvas").onmousemove = (event) => result && highlight(under(event));
at("canvas").onmouseleave = () => highlight(null);
at("canvas").onclick = (event) => result && highlight(under(event));
at("play").onclick = play;
at("seek").oninput = (event) => {
  stopPlaying();
  showFrame(Number(event.target.value), true);
};
at("json").onclick = () =>
  save(`${stem()}_people.json`, JSON.stringify(result.answer, null, 1), "application/json");
at("csv").onclick = () =>
  save(`${stem()}_people.csv`, table(result.name, result.frames, result.isClip), "text/csv");
at("png").onclick = savePicture;
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) give(file);
  else if (event.target.tagName !== "INPUT") complain("There is no picture in the clipboard.");
});
addEventListener("resize", () => {
  if (!result) return;
  fit();
  draw();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").hidden = true;
  give(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "password") return;
  if (event.key === "Escape") closeCamera();
  const name = KEYS[event.key];
  if (name && !at("result").hidden && !at(name).disabled) at(name).click();
});

async function start() {
  try {
    await learn();
    at("key").hidden = true;
    complain("");
  } catch (problem) {
    if (problem.status === 401) at("key").hidden = false;
    else complain("The service does not answer yet. Try again in a moment.");
  }
}
start();
