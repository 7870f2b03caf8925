// What can be taken away from the page.

export function save(name, content, kind) {
  const blob = content instanceof Blob ? content : new Blob([content], { type: kind });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// a row per person, in the columns of `humanquery predict --csv` and `track --save csv`
export function table(name, frames, isClip) {
  const first = isClip ? ["frame", "seconds"] : ["file_name"];
  const joints = frames.find((frame) => frame.skeleton)?.skeleton.joints ?? [];
  const columns = [...first, "person", "x1", "y1", "x2", "y2", "score", "gender", "age",
    ...(isClip ? ["track_id"] : []),
    ...joints.flatMap((joint) => [`${joint}_x`, `${joint}_y`, `${joint}_score`])];
  const lines = frames.flatMap((frame) => frame.persons.map((person, row) => [
    ...(isClip ? [frame.index, frame.seconds] : [name]),
    row, ...person.box, person.score, person.gender?.female, person.age,
    ...(isClip ? [person.track_id] : []),
    ...joints.flatMap((_, k) => person.keypoints?.[k] ?? ["", "", ""]),
  ]));
  return [columns, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

function cell(value) {
  let text = String(value ?? "");
  // a spreadsheet would run a name that begins like a formula
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
