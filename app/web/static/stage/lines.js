// Lines of the brush, drawn on a canvas of the page or of the worker.

/** Draw a line: `points` are shares of the canvas' width and height, `width` is one of its width. */
export function trace(context, { points, width }) {
  const { width: across, height: down } = context.canvas;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = Math.max(1, width * across);
  context.beginPath();
  context.moveTo(points[0][0] * across, points[0][1] * down);
  // A tap has one point: a line of no length would draw nothing.
  if (points.length === 1) context.lineTo(points[0][0] * across + 0.01, points[0][1] * down);
  for (const [x, y] of points.slice(1)) context.lineTo(x * across, y * down);
  context.stroke();
}
