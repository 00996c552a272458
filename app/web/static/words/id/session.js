// Indonesian for signing in and out.

export default {
  "Sign in": "Masuk",
  "Sign out": "Keluar",
  "E-mail address": "Alamat email",
  "Password": "Kata sandi",
  "API key": "Kunci API",
  "For those who sign in on another platform, which has their password.":
    "Untuk Anda yang masuk lewat platform lain, yang menyimpan kata sandi Anda.",
  "Use an API key instead": "Pakai kunci API",
  "Use a password instead": "Pakai kata sandi",
  "Not now": "Nanti saja",
  "Sign in to remove backgrounds, and to see your pictures and credits.":
    "Masuk untuk menghapus latar belakang, dan untuk melihat gambar serta kredit Anda.",
  "Your session has ended. Sign in to go on; nothing is lost.":
    "Sesi Anda telah berakhir. Masuk untuk melanjutkan; tidak ada yang hilang.",
  "Your browser did not keep the sign-in. Allow cookies for this address, and open it by https if it has that.":
    "Peramban Anda tidak menyimpan status masuk. Izinkan cookie untuk alamat ini, dan buka dengan https jika tersedia.",
  "Too many attempts. Wait {seconds} seconds, then try again.": "Terlalu banyak percobaan. Tunggu {seconds} detik, lalu coba lagi.",
  "The e-mail address or the password is wrong. Check both, and try again.":
    "Alamat email atau kata sandi salah. Periksa keduanya, lalu coba lagi.",
};
