"use strict";
// Stamps as signal again. A picture's channels hold bands as arcsinh of signal over sky noise; here
// they are decoded and stretched: in colour after Lupton et al. (2004), or one band in grey.
const makeStretch = (channels, softening) => {
  // Sky at a dark grey rather than at black, so that its noise, and with it the depth, is seen.
  const SKY_LEVEL = 0.09;
  // Bluer bands count more, as in the SDSS's pictures: ellipticals come out orange and star-forming
  // arcs blue, instead of everything red.
  const BLUEST_WEIGHT = 1.8;
  const scratch = document.createElement("canvas");

  // Signal in sigma of each band, NaN where there is no data.
  const decode = (images, stamp) => {
    const width = images[0].naturalWidth, height = images[0].naturalHeight;
    scratch.width = width;
    scratch.height = height;
    const context = scratch.getContext("2d", { willReadFrequently: true });
    const signalOf = new Float32Array(256);
    signalOf[0] = NaN;
    for (let v = 1; v < 256; v++) signalOf[v] = softening * Math.sinh(stamp.low + (v - 1) * stamp.step);
    const bands = [];
    images.forEach((image, i) => {
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, width, height).data;
      channels.slice(3 * i, 3 * i + 3).forEach((band, channel) => {
        const signal = new Float32Array(width * height);
        for (let p = 0; p < signal.length; p++) signal[p] = signalOf[pixels[4 * p + channel]];
        bands[band] = signal;
      });
    });
    return { width, height, bands };
  };

  const grey = (signal, white, paint) => {
    const top = Math.asinh(white / softening);
    for (let p = 0; p < signal.length; p++) {
      if (Number.isNaN(signal[p])) continue;
      const level = SKY_LEVEL + (1 - SKY_LEVEL) * Math.asinh(signal[p] / softening) / top;
      paint(p, level, level, level);
    }
  };

  // Brightness is the mean signal in units of noise, hue the ratio of fluxes.
  const colour = (decoded, stamp, white, paint) => {
    const shown = [...new Set(channels.slice(0, 3))].reverse(); // from blue to red
    const weight = shown.map((band, i) => stamp.noise[band] * BLUEST_WEIGHT ** (1 - i / (shown.length - 1)));
    const top = Math.asinh(white / softening);
    const rgb = [0, 0, 0];
    for (let p = 0; p < decoded.width * decoded.height; p++) {
      let good = 0, snr = 0, mean = 0;
      shown.forEach((band, i) => {
        const signal = decoded.bands[band][p];
        if (Number.isNaN(signal)) return;
        good += 1;
        snr += signal;
        mean += signal * weight[i] / shown.length;
      });
      if (good === 0) continue;
      snr /= good;
      const brightness = Math.asinh(snr / softening) / top;
      // Where the signal is weak its colour is noise, and where a band is missing it is not known.
      const saturation = good < shown.length || mean <= 0 ? 0 : Math.min(Math.max(snr / 6, 0), 1);
      const hue = shown.map((band, i) => {
        const share = saturation ? decoded.bands[band][p] * weight[i] / mean : 1;
        return 1 + (Math.min(Math.max(share, 0), 3) - 1) * saturation;
      });
      if (hue.length === 2) hue.splice(1, 0, (hue[0] + hue[1]) / 2);
      for (let c = 0; c < 3; c++) rgb[c] = SKY_LEVEL + (1 - SKY_LEVEL) * brightness * hue[2 - c];
      // Too bright a pixel keeps its hue: all three are divided by the largest.
      const most = Math.max(rgb[0], rgb[1], rgb[2], 1);
      paint(p, rgb[0] / most, rgb[1] / most, rgb[2] / most);
    }
  };

  // Draw `view` ("colour" or a band's index) of a card's pictures; contrast 2 makes half the signal white.
  const draw = (canvas, images, stamp, view, contrast) => {
    const decoded = decode(images, stamp);
    canvas.width = decoded.width;
    canvas.height = decoded.height;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(decoded.width, decoded.height);
    const data = picture.data;
    for (let p = 0; p < data.length / 4; p++) {
      // Checks, where there is no data.
      const x = p % decoded.width, y = Math.floor(p / decoded.width);
      data.fill((x >> 2) + (y >> 2) & 1 ? 138 : 107, 4 * p, 4 * p + 3);
      data[4 * p + 3] = 255;
    }
    const paint = (p, r, g, b) => {
      data[4 * p] = 255 * r;
      data[4 * p + 1] = 255 * g;
      data[4 * p + 2] = 255 * b;
    };
    const white = Math.max(stamp.white / contrast, softening);
    if (view === "colour" && new Set(channels).size > 1) colour(decoded, stamp, white, paint);
    else grey(decoded.bands[view === "colour" ? 0 : Number(view)], white, paint);
    context.putImageData(picture, 0, 0);
  };
  return { draw };
};
