"use strict";
const video = document.querySelector("video");
const spans = [...document.querySelectorAll("a[href*='#t=']")].map((link) => {
  const [from, to] = link.hash.slice(3).split(",").map(Number);
  return { link, from, to };
});
const hands = [...document.querySelectorAll(".hand")];
const wholeS = Number(document.body.dataset.length);
for (const { link, from } of spans) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    video.currentTime = from;
    video.scrollIntoView({ block: "nearest" });
  });
}
for (const lane of document.querySelectorAll(".lane")) {
  lane.addEventListener("click", (event) => {
    if (event.target !== lane) return;
    const place = lane.getBoundingClientRect();
    video.currentTime = ((event.clientX - place.left) / place.width) * wholeS;
  });
}
const show = () => {
  const now = video.currentTime;
  for (const hand of hands) hand.style.left = `${Math.min(100, (100 * now) / wholeS)}%`;
  for (const { link, from, to } of spans) link.classList.toggle("now", from <= now && now < to);
};
for (const name of ["timeupdate", "seeking", "seeked", "loadedmetadata"]) {
  video.addEventListener(name, show);
}
show();
