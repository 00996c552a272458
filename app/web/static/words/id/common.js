// Indonesian for what all views have.

export default {
  "Trying again …": "Mencoba lagi …",
  "Views": "Halaman",
  "Remove": "Hapus latar",
  "History": "Riwayat",
  "Account": "Akun",
  "Admin": "Admin",
  "Language": "Bahasa",
  "Cutout": "Cutout",
  "API": "API",
  "PNG": "PNG",
  "WebP": "WebP",
  "JPEG": "JPEG",
  "This page needs JavaScript.": "Halaman ini memerlukan JavaScript.",
  "See your credits": "Lihat kredit Anda",
  "The upload is too large for a server in between. Send smaller photos, or fewer at once.":
    "Unggahan terlalu besar untuk server perantara. Kirim foto yang lebih kecil, atau lebih sedikit sekaligus.",
  "The service is not there at the moment; it may be starting. Nothing was charged. Try again in a moment.":
    "Layanan sedang tidak tersedia; mungkin baru dimulai. Tidak ada biaya. Coba lagi sebentar lagi.",
  "The service failed ({status}). Nothing was charged. Try again; its log says more.":
    "Layanan mengalami kesalahan ({status}). Tidak ada biaya. Coba lagi; log layanan menjelaskan lebih lanjut.",
  "You are offline. Connect to the network and try again; nothing is lost.":
    "Anda sedang luring. Sambungkan ke jaringan lalu coba lagi; tidak ada yang hilang.",
  "Trying again in {count} second …": "Mencoba lagi dalam {count} detik …",
  "Trying again in {count} seconds …": "Mencoba lagi dalam {count} detik …",
  "The service answered {status}.": "Layanan menjawab {status}.",
  "The service cannot be reached. Is it still running?": "Layanan tidak dapat dihubungi. Apakah masih berjalan?",
  "You are signed out. Sign in to go on.": "Anda telah keluar. Masuk untuk melanjutkan.",
  "See your credits": "Lihat kredit Anda",
};
