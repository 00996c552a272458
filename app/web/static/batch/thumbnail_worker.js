// Makes small copies of photos beside the page. Browsers decode photos beside it too, but resize them in its own thread.

onmessage = async ({ data: { id, file, side } }) => {
  postMessage({ id, copy: await copyOf(file, side).catch(() => null) }); // null: the browser cannot read it
};

async function copyOf(file, side) {
  const bitmap = await createImageBitmap(file, { resizeWidth: side, resizeQuality: "medium" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return await canvas.convertToBlob({ type: "image/webp", quality: 0.8 });
}
