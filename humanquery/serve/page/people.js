// People onto a canvas: as humanquery.draw paints them, with parts switched on and off.

const SIDES = { left: "#009eff", right: "#ff8c00", middle: "#f5f5f5" };
const SEEN_FROM = 0.2; // joints of a lower score are left out
const CELLS = 6; // of a face's mosaic, across

// a stable colour per person, that of humanquery.draw; neighbours in number are far apart in hue
export function colorOf(identity) {
  return `rgb(${channels(identity).map(Math.floor).join(" ")})`;
}

function channels(identity) {
  const hue = ((identity * 0.61803398875 + 0.02) % 1) * 6;
  const [saturation, value] = [0.72, 0.98];
  return [5, 3, 1].map((shift) => {
    const k = (shift + hue) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  });
}

function inkOn(identity) {
  const [red, green, blue] = channels(identity);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff";
}

export function identityOf(person, row) {
  return person.track_id ?? row;
}

// the words of a label, without what the model does not give
export function wordsOf(person) {
  const words = [];
  if (person.track_id !== undefined) words.push(`#${person.track_id}`);
  const gender = genderOf(person);
  if (gender) words.push(gender);
  if (person.age != null) words.push(person.age.toFixed(0));
  const score = person.score.toFixed(2);
  return words.length ? `${words.join(" ")} · ${score}` : score;
}

export function genderOf(person) {
  const female = person.gender?.female;
  return female == null ? "" : female >= 0.5 ? "woman" : "man";
}

// `look`: booleans {boxes, masks, joints, labels, faces}; px of the canvas for one of the picture
// (`scale`) and for one of the screen (`ink`); the row of the person to highlight (`lit`), or null
export function paint(context, picture, people, model, look) {
  const { scale, ink, lit } = look;
  const { width, height } = context.canvas;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0, width, height);
  const line = Math.max(1.5 * ink, Math.max(width, height) / 420);
  const rows = people.map((person, row) => ({ person, row })).sort((a, b) => area(b) - area(a));
  if (look.faces) rows.forEach(({ person }) => hideFace(context, person.face, scale));
  for (const { person, row } of rows) {
    const color = colorOf(identityOf(person, row));
    const faded = lit !== null && lit !== row;
    context.globalAlpha = faded ? 0.15 : 1;
    if (look.masks && person.mask) paintMask(context, person, color, scale, lit === row);
  }
  for (const { person, row } of rows) {
    const color = colorOf(identityOf(person, row));
    context.globalAlpha = lit !== null && lit !== row ? 0.25 : 1;
    if (look.boxes || lit === row) paintBox(context, person.box, color, line, scale, lit === row);
    if (look.joints && person.keypoints && model.skeleton)
      paintJoints(context, person, model.skeleton, line, scale);
  }
  if (look.labels) paintLabels(context, rows, look);
  context.globalAlpha = 1;
}

function area({ person: { box } }) {
  return (box[2] - box[0]) * (box[3] - box[1]);
}

function paintBox(context, box, color, line, scale, strong) {
  const [x1, y1, x2, y2] = box.map((v) => v * scale);
  context.strokeStyle = color;
  context.lineWidth = strong ? 2 * line : line;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

function paintJoints(context, person, skeleton, line, scale) {
  const height = (person.box[3] - person.box[1]) * scale;
  const wide = Math.max(1, Math.min(line * 1.2, height / 60));
  const seen = (k) => person.keypoints[k][0] != null && person.keypoints[k][2] > SEEN_FROM;
  const place = (k) => [person.keypoints[k][0] * scale, person.keypoints[k][1] * scale];
  context.lineCap = "round";
  for (const [a, b] of skeleton.limbs) {
    if (!seen(a) || !seen(b)) continue;
    const sides = new Set([skeleton.sides[a], skeleton.sides[b]]);
    const color = SIDES[sides.size === 1 ? [...sides][0] : "middle"];
    for (const [style, width] of [["#141414", wide + 2], [color, wide]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...place(a));
      context.lineTo(...place(b));
      context.stroke();
    }
  }
  person.keypoints.forEach((_, k) => {
    if (!seen(k)) return;
    context.beginPath();
    context.arc(...place(k), wide * 0.9 + 0.8, 0, 2 * Math.PI);
    context.fillStyle = SIDES[skeleton.sides[k]];
    context.strokeStyle = "#141414";
    context.lineWidth = 1;
    context.fill();
    context.stroke();
  });
}

function paintLabels(context, rows, { scale, ink, lit }) {
  const { width, height } = context.canvas;
  const taken = [];
  const best = [...rows].sort((a, b) => (b.row === lit) - (a.row === lit) ||
    b.person.score - a.person.score);
  for (const { person, row } of best) {
    const [x1, y1, x2, y2] = person.box.map((v) => v * scale);
    const size = Math.round(Math.min(Math.max(11 * ink, Math.max(width, height) / 45),
      Math.max(11 * ink, (x2 - x1) / 5)));
    context.font = `600 ${size}px system-ui, sans-serif`;
    const text = wordsOf(person);
    const wide = context.measureText(text).width + 0.6 * size;
    const tall = 1.35 * size;
    const x = Math.min(Math.max(x1, 0), Math.max(width - wide, 0));
    const y = [y1 - tall, y1, y2 - tall, y2].find((top) => top >= 0 && top + tall <= height &&
      !taken.some((t) => x < t[2] && t[0] < x + wide && top < t[3] && t[1] < top + tall));
    if (y === undefined) continue;
    taken.push([x, y, x + wide, y + tall]);
    context.globalAlpha = lit !== null && lit !== row ? 0.25 : 1;
    context.fillStyle = colorOf(identityOf(person, row));
    context.fillRect(x, y, wide, tall);
    context.fillStyle = inkOn(identityOf(person, row));
    context.textBaseline = "middle";
    context.fillText(text, x + 0.3 * size, y + tall / 2);
  }
}

// means of large cells over the ellipse around a face
function hideFace(context, face, scale) {
  if (!face) return;
  const [x, y, across, along] = face.map((v) => v * scale);
  const [left, top] = [Math.floor(x - across), Math.floor(y - along)];
  const [wide, tall] = [Math.ceil(2 * across), Math.ceil(2 * along)];
  if (wide < 1 || tall < 1) return;
  const coarse = document.createElement("canvas");
  coarse.width = Math.min(CELLS, wide);
  coarse.height = Math.min(Math.round(CELLS * 1.35), tall);
  const small = coarse.getContext("2d");
  small.imageSmoothingQuality = "high";
  small.drawImage(context.canvas, left, top, wide, tall, 0, 0, coarse.width, coarse.height);
  context.save();
  context.beginPath();
  context.ellipse(x, y, across, along, 0, 0, 2 * Math.PI);
  context.clip();
  context.imageSmoothingEnabled = false;
  context.drawImage(coarse, left, top, wide, tall);
  context.restore();
}

const painted = new WeakMap(); // a mask is decoded once

function paintMask(context, person, color, scale, strong) {
  if (!painted.has(person)) painted.set(person, maskPicture(person.mask, color));
  const layer = painted.get(person);
  if (!layer) return;
  context.globalAlpha *= strong ? 0.65 : 0.42;
  const { canvas, left, top } = layer;
  context.drawImage(canvas, left * scale, top * scale, canvas.width * scale,
    canvas.height * scale);
}

// COCO run lengths as a canvas of one colour, as large as what it covers; null where that is nothing
function maskPicture({ size: [height, width], counts }, color) {
  const runs = runLengths(counts);
  let [left, right, top, bottom] = [width, 0, height, 0];
  eachRun(runs, height, (column, from, to) => {
    left = Math.min(left, column);
    right = Math.max(right, column + 1);
    top = Math.min(top, from);
    bottom = Math.max(bottom, to);
  });
  if (left >= right) return null;
  const canvas = document.createElement("canvas");
  canvas.width = right - left;
  canvas.height = bottom - top;
  const context = canvas.getContext("2d");
  context.fillStyle = color;
  eachRun(runs, height, (column, from, to) =>
    context.fillRect(column - left, from - top, 1, to - from));
  return { canvas, left, top };
}

// column by column; a run may go on over several
function eachRun(runs, height, visit) {
  let place = 0;
  runs.forEach((length, i) => {
    if (i % 2) {
      for (let at = place; at < place + length;) {
        const column = Math.floor(at / height);
        const end = Math.min(place + length, (column + 1) * height);
        visit(column, at - column * height, end - column * height);
        at = end;
      }
    }
    place += length;
  });
}

// characters of five bits, least first; from the fourth number on, differences to two before
export function runLengths(text) {
  const runs = [];
  let [value, shift] = [0, 0];
  for (const character of text) {
    const bits = character.charCodeAt(0) - 48;
    value += (bits & 31) * 2 ** shift;
    shift += 5;
    if (bits & 32) continue;
    if (bits & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    [value, shift] = [0, 0];
  }
  return runs;
}
