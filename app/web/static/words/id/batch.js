// Indonesian for batches.

export default {
  "Options": "Opsi",
  "Preset": "Prasetel",
  "None: the photo's own frame": "Tidak ada: bingkai foto itu sendiri",
  "As in the preset": "Sesuai prasetel",
  "Show": "Tampilkan",
  "All": "Semua",
  "Photos": "Foto",
  "Ready": "Siap",
  "Waiting": "Menunggu",
  "In work": "Dikerjakan",
  "Done": "Selesai",
  "Failed": "Gagal",
  "Cancelled": "Dibatalkan",
  "Needs review": "Perlu diperiksa",
  "Open {name}": "Buka {name}",
  "The ZIP holds {count} picture under the name of its file, and manifest.json, which says what became of each photo.":
    "ZIP berisi {count} gambar dengan nama berkasnya, dan manifest.json yang menjelaskan hasil setiap foto.",
  "The ZIP holds {count} pictures under the names of their files, and manifest.json, which says what became of each photo.":
    "ZIP berisi {count} gambar dengan nama berkasnya masing-masing, dan manifest.json yang menjelaskan hasil setiap foto.",
  "To try again, choose these files once more: {names}.": "Untuk mencoba lagi, pilih berkas-berkas ini sekali lagi: {names}.",
  "{count} more": "{count} lainnya",
  "{count} file would fail again. Its card says why: choose another file in its place.":
    "{count} berkas akan gagal lagi. Kartunya menjelaskan sebabnya: pilih berkas lain sebagai gantinya.",
  "{count} files would fail again. Their cards say why: choose other files in their place.":
    "{count} berkas akan gagal lagi. Kartunya menjelaskan sebabnya: pilih berkas lain sebagai gantinya.",
  "Try the failed photo again": "Coba lagi foto yang gagal",
  "Try the {count} failed photos again": "Coba lagi {count} foto yang gagal",
};
