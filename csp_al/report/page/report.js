"use strict";
/* Sorts tables, draws the figures, and shows crystals; see csp_al/report/page/views.py for how these are packed. */

const read = (id) => JSON.parse(document.getElementById(id).textContent);

// tables

function sortBy(heading) {
  const row = heading.parentNode, column = [...row.children].indexOf(heading);
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of row.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = heading.closest("table").tBodies[0], isNumber = heading.classList.contains("number");
  const keyed = [...body.rows].map((line) => [line.cells[column].dataset.value, line]);
  keyed.sort(([one], [other]) => {
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined);
    const order = isNumber ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });
    return ascending ? order : -order;
  });
  body.append(...keyed.map(([, line]) => line));
}

for (const heading of document.querySelectorAll("table.sortable th"))
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));

// figures

for (const place of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = read("figure-" + place.dataset.figure);
  Plotly.newPlot(place, data, layout, { displaylogo: false });
}

// crystals

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

class Crystals {
  constructor(packed) {
    Object.assign(this, packed);
    this.numbers = new Uint8Array(bytes(packed.numbers));
    this.fractions = new Uint16Array(bytes(packed.fractions));
    this.cells = new Float32Array(bytes(packed.cells));
    this.row = new Map(packed.ids.map((id, row) => [id, row]));
  }

  get length() { return this.ids.length; }

  symbolsOf(row) {
    return [...this.numbers.slice(this.ptr[row], this.ptr[row + 1])].map((number) => this.symbols[number]);
  }

  /* Cells in each direction, so that some atoms are seen. */
  timesFor(row) { return this.ptr[row + 1] - this.ptr[row] < 6 ? 2 : 1; }

  /* Repeated so often in each direction, in the extended XYZ format. */
  xyz(row, times) {
    const cell = [0, 3, 6].map((at) => this.cells.slice(9 * row + at, 9 * row + at + 3));
    const lines = [];
    for (let atom = this.ptr[row]; atom < this.ptr[row + 1]; atom++)
      for (let i = 0; i < times; i++)
        for (let j = 0; j < times; j++)
          for (let k = 0; k < times; k++) {
            const at = [i, j, k].map((shift, axis) => shift + this.fractions[3 * atom + axis] / 65536);
            const place = [0, 1, 2].map((x) => at[0] * cell[0][x] + at[1] * cell[1][x] + at[2] * cell[2][x]);
            lines.push(`${this.symbols[this.numbers[atom]]} ${place.join(" ")}`);
          }
    const lattice = cell.map((vector) => [...vector].map((length) => times * length).join(" ")).join(" ");
    return `${lines.length}\nLattice="${lattice}"\n${lines.join("\n")}\n`;
  }
}

const AXES = { box: { color: "#555555" }, alabel: "a", blabel: "b", clabel: "c" };
for (const [axis, color] of [["a", "#D55E00"], ["b", "#009E73"], ["c", "#0072B2"]]) {
  AXES[axis + "style"] = { color, radius: 0.06, midpos: -1 };
  AXES[axis + "labelstyle"] = { fontColor: color, fontSize: 14, showBackground: false, alignment: "center", inFront: false };
}
const JMOL = { colorscheme: "Jmol" };

/* 3Dmol.js ties what is near; metals are not tied to each other. Whether any two atoms are tied. */
function untieMetals(model, metals) {
  const atoms = model.selectedAtoms({}), symbols = new Map(atoms.map((atom) => [atom.index, atom.elem]));
  for (const atom of atoms)
    if (metals.has(atom.elem)) atom.bonds = atom.bonds.filter((other) => !metals.has(symbols.get(other)));
  return atoms.some((atom) => atom.bonds.length);
}

class View {
  constructor(place) {
    const looks = { backgroundColor: "white", orthographic: true, disableFog: true, minimumZoomToDistance: 1 };
    this.viewer = $3Dmol.createViewer(place, looks);
  }

  show(crystals, row, times = crystals.timesFor(row)) {
    const viewer = this.viewer;
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    const model = viewer.addModel(crystals.xyz(row, times), "xyz");
    viewer.replicateUnitCell(1, 1, 1, model, true); // what lies on a face is drawn on the opposite one, too
    viewer.addUnitCell(model, structuredClone(AXES));
    const bonded = untieMetals(model, new Set(crystals.metals));
    viewer.setStyle({}, { sphere: { scale: bonded ? 0.3 : 0.5, ...JMOL }, stick: { radius: 0.1, ...JMOL } });
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    viewer.rotate(-80, "x");
    viewer.rotate(20, "y");
    viewer.zoomTo();
    viewer.zoom(1.15);
    viewer.render();
  }
}

function canDraw() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* Pictures of all crystals, and one of them large: all drawn by one view, since browsers allow few. */
class Gallery {
  constructor(crystals) {
    this.crystals = crystals;
    this.view = new View(document.getElementById("viewer"));
    this.cards = crystals.captions.map((caption, row) => {
      this.view.show(crystals, row);
      const picture = element("img", { alt: "", src: this.view.viewer.pngURI() });
      const card = element("button", { type: "button" }, picture, `${row + 1}. ${caption}`);
      card.addEventListener("click", () => this.choose(row));
      return card;
    });
    document.getElementById("gallery").append(...this.cards);
    document.getElementById("repeat").addEventListener("change", () => this.enlarge());
    this.choose(0);
  }

  enlarge() {
    this.view.show(this.crystals, this.chosen, Number(document.getElementById("repeat").value));
  }

  choose(row) {
    const { crystals } = this;
    this.chosen = row;
    this.cards.forEach((card, place) => card.setAttribute("aria-pressed", String(place === row)));
    document.getElementById("repeat").value = crystals.timesFor(row);
    this.enlarge();
    document.getElementById("caption").textContent = `${row + 1}. ${crystals.captions[row]}`;
    document.getElementById("cell").textContent = crystals.cells_in_words[row];
    const colours = $3Dmol.elementColors.Jmol;
    document.getElementById("legend").replaceChildren(...[...new Set(crystals.symbolsOf(row))].flatMap((symbol) => {
      const spot = element("span");
      spot.style.background = "#" + (colours[symbol] ?? 0xff1493).toString(16).padStart(6, "0");
      return [spot, symbol];
    }));
    const save = document.getElementById("save");
    URL.revokeObjectURL(save.href);
    save.href = URL.createObjectURL(new Blob([crystals.cifs[row]], { type: "chemical/x-cif" }));
    save.download = crystals.names[row] + ".cif";
  }
}

function followPointer(map, candidates) {
  const view = new View(document.getElementById("pointed")), which = document.getElementById("which");
  const show = (id) => {
    const row = candidates.row.get(id);
    if (row === undefined) return void (which.textContent = `Candidate ${id}: its crystal is not in this page.`);
    view.show(candidates, row);
    which.textContent = `Candidate ${id}, as the potentials relaxed it`;
  };
  const point = (event) => show(event.points[0].customdata[0]);
  if (candidates.length) show(candidates.ids[0]);
  map.on("plotly_hover", point);
  map.on("plotly_click", point);
}

/* Do it once the reader comes near a place. */
function whenNear(place, act) {
  const observer = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    act();
  }, { rootMargin: "600px" });
  observer.observe(place);
}

const crystals = new Crystals(read("crystals")), candidates = new Crystals(read("candidates"));
if (!canDraw()) {
  for (const note of document.querySelectorAll(".without-webgl")) note.hidden = false;
} else {
  if (crystals.length) new Gallery(crystals);
  const map = document.querySelector("[data-figure=map]");
  if (map) whenNear(map, () => followPointer(map, candidates));
}
document.documentElement.dataset.ready = "yes";
