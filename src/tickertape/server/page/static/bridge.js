// Passes events between page.js and the server: Gradio carries requests there and updates back.
const bus = (window.tickertape ??= new EventTarget());
bus.addEventListener("request", (event) => {
  props.value = event.detail;
  trigger("submit");
});
bus.addEventListener("cancel", () => trigger("stop"));
watch("value", () => bus.dispatchEvent(new CustomEvent("update", { detail: props.value })));
