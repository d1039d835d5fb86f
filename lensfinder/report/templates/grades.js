"use strict";
// Grades of one person for one list of candidates: kept in the browser, in and out as CSV.
const makeGrades = (data, say) => {
  const GRADES = ["A", "B", "C", "X", "0", "1", "2", "3"];
  const key = `lensfinder-grades:${data.report}`;
  const known = new Set(data.cards.map((card) => card.id));
  let grades = new Map();
  let grader = "";

  // A page opened from a file, or in a private window, may be refused all storage.
  try {
    const kept = JSON.parse(localStorage.getItem(key) ?? "null");
    if (kept) {
      grader = String(kept.grader);
      grades = new Map(kept.grades.filter(([id, grade]) => known.has(id) && GRADES.includes(grade)));
    }
  } catch {
    say("This browser keeps nothing for this page: export the grades before closing it.");
  }
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify({ grader, grades: [...grades] }));
    } catch {
      say("The grades could not be kept in this browser: export them before closing the page.");
    }
  };

  // A spreadsheet must not take an id for a formula; `lensfinder grades` takes the quote off again.
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    const text = String(value ?? "");
    const safe = /^\s*[=+\-@']/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const columns = ["id", "name", "rank", "ra", "dec", "logit", "grade", "grader", "model_id"];
  const toCsv = () => {
    const rows = data.cards.filter((card) => grades.has(card.id)).map((card) => [
      card.id, card.name, card.rank, card.ra, card.dec, card.logit, grades.get(card.id), grader, data.model_id,
    ]);
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  };

  const parse = (text) => {
    const rows = [[""]];
    let quoted = false;
    for (let i = 0; i < text.length; i++) {
      const row = rows[rows.length - 1];
      if (quoted && text[i] === '"' && text[i + 1] === '"') { row[row.length - 1] += '"'; i++; }
      else if (text[i] === '"') quoted = !quoted;
      else if (!quoted && text[i] === ",") row.push("");
      else if (!quoted && text[i] === "\n") rows.push([""]);
      else if (quoted || text[i] !== "\r") row[row.length - 1] += text[i];
    }
    return rows;
  };
  // Take over the grades of a file that this page or another grader's wrote.
  const fromCsv = (text) => {
    const [header, ...rows] = parse(text.replace(/^\uFEFF/, ""));
    const id = header.indexOf("id"), grade = header.indexOf("grade");
    if (id < 0 || grade < 0) return say("That file has no columns id and grade.");
    let taken = 0, strange = 0;
    for (const row of rows) {
      if (row.length <= Math.max(id, grade)) continue;
      const name = row[id].replace(/^'/, ""), given = row[grade].trim().toUpperCase();
      if (known.has(name) && GRADES.includes(given)) { grades.set(name, given); taken++; }
      else strange++;
    }
    keep();
    say(`${taken} grades taken over` + (strange ? `, ${strange} of other objects or scales left out` : ""));
  };

  return {
    GRADES,
    get: (id) => grades.get(id),
    set: (id, grade) => { if (grade) grades.set(id, grade); else grades.delete(id); keep(); },
    count: () => grades.size,
    grader: () => grader,
    setGrader: (name) => { grader = name; keep(); },
    toCsv,
    fromCsv,
  };
};
